/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest guest that powers down when it is asked to: it watches the power button of QEMU's q35 machine
 * (ACPI's PM1 registers, where SeaBIOS has put them) and then enters S5. */
        .set    PM1_STATUS, 0x600
        .set    PM1_ENABLE, 0x602
        .set    PM1_CONTROL, 0x604
        .set    POWER_BUTTON, 0x100
        .set    SLEEP_S5, 0x2000
        .set    BOARD, 0x200000
        .set    READY, 0x59444152       /* "RADY" */

        .section .multiboot, "a"
        .align  4
        .long   0x1badb002, 2, -(0x1badb002 + 2) /* magic, "memory sizes please", check sum */

        .text
        .code32
        .globl  start
start:
        cli
        movw    $PM1_ENABLE, %dx
        movw    $POWER_BUTTON, %ax
        outw    %ax, %dx
        movl    $READY, BOARD           /* from here on it hears of the button */
1:      pause
        movw    $PM1_STATUS, %dx
        inw     %dx, %ax
        testw   $POWER_BUTTON, %ax
        jz      1b
        movl    $0, BOARD               /* its RAM may be its next run's */
        movw    $PM1_CONTROL, %dx
        movw    $SLEEP_S5, %ax
        outw    %ax, %dx
2:      hlt
        jmp     2b

        .section .note.GNU-stack, "", @progbits
