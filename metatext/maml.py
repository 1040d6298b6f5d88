"""Public functions of MAML: `sweep` for any task, `meta_gradient` and `outer_loss` for a learner and an episode."""

from metatext.core.maml import sweep as sweep
from metatext.learners.meta_gradient import meta_gradient as meta_gradient
from metatext.learners.meta_gradient import outer_loss as outer_loss
