/* SPDX-License-Identifier: Apache-2.0 */
/* How vCPUs come to C: the first from the multiboot loader in protected mode, the others from real mode, where
 * the start-up interrupt (SIPI) puts them. All run flat, without paging. */
        .set    STACK_SIZE, 4096        /* one a vCPU, as payload.c has them */
        .set    CPUS_MAX, 64
        .set    APIC_ID, 0xfee00020

        .section .multiboot, "a"
        .align  4
        .long   0x1badb002, 2, -(0x1badb002 + 2) /* magic, "memory sizes please", check sum */

        .text
        .code32
        .globl  start
start:
        cli
        cld
        movl    $stacks + STACK_SIZE, %esp
        lgdt    gdt_pointer
        ljmp    $8, $1f
1:      call    load_segments
        pushl   %ebx                    /* the loader's struct */
        pushl   %eax                    /* the loader's magic */
        call    payload_main
        jmp     stop

load_segments:
        movw    $16, %dx
        movw    %dx, %ds
        movw    %dx, %es
        movw    %dx, %fs
        movw    %dx, %gs
        movw    %dx, %ss
        ret

stop:   cli
        hlt
        jmp     stop

/* Copied to a page below 1 MiB. Nothing in it may depend on where it is. */
        .code16
        .globl  ap_begin, ap_end
ap_begin:
        cli
        cld
        movw    %cs, %ax
        movw    %ax, %ds
        lgdtl   ap_gdt_pointer - ap_begin
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $8, $ap32
        .align  4
ap_gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt
ap_end:

        .code32
ap32:   movw    $16, %dx                /* no stack yet to call with */
        movw    %dx, %ds
        movw    %dx, %es
        movw    %dx, %fs
        movw    %dx, %gs
        movw    %dx, %ss
        movl    APIC_ID, %eax
        shrl    $24, %eax
        cmpl    $CPUS_MAX, %eax
        jae     stop
        leal    1(%eax), %ecx
        imull   $STACK_SIZE, %ecx
        leal    stacks(%ecx), %esp
        pushl   %eax
        call    payload_ap
        jmp     stop

/* The timer only wakes: what is due is seen by the clock. */
        .globl  on_timer, on_fault
on_timer:
        movl    $0, 0xfee000b0          /* end of interrupt */
        iret

on_fault:
        call    payload_fault
        jmp     stop

        .section .rodata
        .align  8
gdt:    .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_end:
gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt

        .section .note.GNU-stack, "", @progbits
