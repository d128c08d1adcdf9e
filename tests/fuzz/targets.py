"""Every target, by name."""

from tests.fuzz import log_targets, policy_targets, record_targets, row_targets
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (log_targets, record_targets, row_targets, policy_targets)
    for target in module.TARGETS
}
