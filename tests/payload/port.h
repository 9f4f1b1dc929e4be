/* SPDX-License-Identifier: Apache-2.0 */
/* port.h - the guest's end of a virtio-serial port, by polling: only what a bridge needs. One device, one
 * port, vCPU 0 alone. */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { PORT_LINE = 1024 };

/* Finds the device and its port number 1 and opens it. 0, or -1 where there is none. */
int port_open(void);
/* What has come, at most `size` bytes: how many. */
size_t port_read(uint8_t *to, size_t size);
/* At most PORT_LINE bytes; returns when the device has taken them. */
void port_write(const uint8_t *from, size_t size);
