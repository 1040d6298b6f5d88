"""Public parts of the inner loop, to use `metatext.maml.sweep` with a model of your own."""

from metatext.core.in_place import in_scratch_memory as in_scratch_memory
from metatext.core.inner_loop import inner_loop as inner_loop
from metatext.core.task import Task as Task
