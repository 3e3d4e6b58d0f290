"""Recaptions a dataset on a Ray cluster: one `recaption worker` process per GPU or set of cores, driven by one driver.

Modules, in the order of the data flow: `cli` reads arguments and plans, `settings` knows the flags of
`recaption run`, `scheduler` decides which worker gets which shard (no
Ray, no clock, no processes), `driver` runs the loop, `cluster` is the part of it that knows Ray, `actor` and `process` run on
the nodes, `protocol` has the messages, `progress` and `report` show what happened.
"""

__version__ = "1.0.0"
