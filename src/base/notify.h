/* SPDX-License-Identifier: Apache-2.0 */
/* base/notify.h - tells the service manager how a daemon fares (sd_notify(3)), without its library. */
#pragma once

/* `state` such as "READY=1" or "STOPPING=1". Does nothing where no service manager listens ($NOTIFY_SOCKET);
 * what it cannot tell is lost. */
void notify_send(const char *state);
