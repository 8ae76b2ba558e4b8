"""The compiler: passes from graph to graph, the schedule, the memory plan, the Program."""
