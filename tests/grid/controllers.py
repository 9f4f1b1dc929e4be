# SPDX-License-Identifier: Apache-2.0
"""Rules by which others steer a copy, as their public sources and proposals state them; pure. round() is told what QEMU says of its
RAM, as often as one likes, and answers with another downtime limit in ms, ABORT, or None.

oVirt: the policy "Minimal downtime" (ovirt-engine, its default policies): a longer limit each time that a round has left more to send
than the best one before it. KubeVirt: stall detection as proposed in VEP 248 (kubevirt#17544): where the best of a window is no better
than that of before it, the limit becomes what the best would take, as long as that is not far above what is allowed."""

ABORT = "abort"


class Rounds:
    """Bytes that a round has left to the next one, when that begins; else None."""

    def __init__(self):
        self.n = 1

    def look(self, ram):
        n = ram.get("dirty-sync-count", 0)
        if n <= self.n:
            return None
        self.n = n
        return ram.get("remaining", 0)


class Ovirt:
    FIRST_MS = 100
    STALLED = {1: 150, 2: 200, 3: 300, 4: 400, 6: 500}  # rounds without progress: limit

    def __init__(self):
        self.rounds, self.least, self.stalled = Rounds(), None, 0

    def round(self, at_s, ram):
        left = self.rounds.look(ram)
        if left is None:
            return None
        if self.least is None or left < self.least:
            self.least = left
            return None
        self.stalled += 1
        return ABORT if self.stalled > max(self.STALLED) else self.STALLED.get(self.stalled)


class Kubevirt:
    WINDOW_S, ALIKE, NEAR, FAR, WEIGHT = 40, 0.96, 1.04, 1.5, 0.5

    def __init__(self, downtime_ms):
        self.downtime_ms, self.rounds, self.seen, self.rate, self.best, self.is_said = downtime_ms, Rounds(), [], None, None, False

    def round(self, at_s, ram):
        left = self.rounds.look(ram)
        if left is None:
            return None
        rate = ram.get("mbps", 0) * 1e6 / 8
        self.rate = rate if self.rate is None else self.WEIGHT * rate + (1 - self.WEIGHT) * self.rate
        self.seen.append((at_s, left))
        before = [n for t, n in self.seen if t <= at_s - self.WINDOW_S]
        if self.best is None and before and min(n for t, n in self.seen if t > at_s - self.WINDOW_S) >= self.ALIKE * min(before):
            self.best = min(n for _, n in self.seen)
        if self.best is None or self.is_said or left > self.NEAR * self.best or not self.rate:
            return None
        self.is_said = True
        implied_ms = self.best / self.rate * 1000
        return ABORT if implied_ms >= self.FAR * self.downtime_ms else max(1, round(min(implied_ms, self.downtime_ms)))
