"""How fast the machine below the lab is at the moment

A virtual machine under load from outside may be half as fast a minute later: what a lab's guests show then is not theirs.
"""
import statistics
import threading
import time

SPIN = 40000
SPIN_EVERY_S = 0.25


def spin():
    """Processor time of always the same work, in s."""
    begun, total = time.thread_time(), 0
    for i in range(SPIN):
        total += i
    return time.thread_time() - begun


class Speed:
    """A context: `spin_ms`, after it, is what the work took, as the median of four times a second while it lasted."""

    def __enter__(self):
        self.spins, self.over = [], threading.Event()
        self.thread = threading.Thread(target=self._spin)
        self.thread.start()
        return self

    def _spin(self):
        self.spins.append(spin())
        while not self.over.wait(SPIN_EVERY_S):
            self.spins.append(spin())

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.spin_ms = round(statistics.median(self.spins) * 1e3, 3)
