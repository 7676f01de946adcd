"""What one pass through the model must compute: rows, or a tree of what rows begin with alike."""

from gpt2lab.engine.passes.planner import LONGEST_SHARED, NEVER_SHARED_ON, Pass, PassPlanner, RowPass, planner_of
from gpt2lab.engine.passes.prefix_tree import PrefixTree, build_tree
from gpt2lab.engine.passes.work import count_passes, count_work
