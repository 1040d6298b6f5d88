"""MAML in three functions: for any task, and for a learner's episode of texts."""

from metatext.core.maml import sweep as sweep
from metatext.learners.meta_gradient import meta_gradient as meta_gradient
from metatext.learners.meta_gradient import outer_loss as outer_loss
