# SPDX-License-Identifier: Apache-2.0
"""What a guest has stored of its host, as its agent was told."""
import json

from host import wait_for


def told(vm):
    """(generation, {id: object})."""
    stored = json.loads(vm.check("cat /run/mete/host.json"))
    return stored["generation"], stored["hhi"]["objects"]


def wait_told(vm, what, condition, timeout_s=60):
    """Until what the guest knows is so; its generation and objects."""
    seen = []

    def is_so():
        if "host.json" not in vm.check("ls /run/mete"):
            return False
        seen[:] = told(vm)
        return condition(seen[1])
    wait_for(what, is_so, timeout_s, 0.2)
    return seen[0], seen[1]
