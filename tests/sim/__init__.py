"""The deterministic simulator: real machines of `engine.core`, virtual time, drawn faults.

`python -m tests.sim --seeds 1000 --first 0` (or `make sim`) runs seeds; one seed is one world.

===================  =========================================================================
`clock`              virtual time: a heap of what happens when
`network`, `member`  lines between two processes: ordered, delayed, stalled, broken by deaths
`references`         what `ObjectRef`, handles and the codec are to a process
`memory`             blocks of memory and disk, and whoever reads one that is gone
`values`             allocating, files, views (as `runtime.values`, `memory` and `disk`)
`spilling`           the thread that copies to disk and back (as `runtime.spilling`)
`requests`           what a process asks its node for (as `runtime.requests`)
`process`, `user`    the edge of a driver or worker (as `runtime.client`), and the public verbs
`worker`             queue, execution and answers (as `runtime.worker`, `runtime.execution`)
`node`               the edge of the node (as `runtime.node`, `runtime.services`)
`tasks`, `actors`    user code whose results are known beforehand, and its oracles
`replay`             of an actor with checkpoints (as `runtime.replay`)
`frozen`             what goes into its checkpoint besides the ledger
`checkpoints`        their memory (as `runtime.checkpoint_memory`, `runtime.checkpoints`)
`keepers`, `history` such actors: their code, the driver's steps, what must come of them
`topologies`         a topology on its inline edge, with epochs, crashes and a disk that forgets
`workload`           the driver's program, drawn as it runs
`faults`             which faults a seed has and how strong; who dies where
`wires`, `head`      several hosts: bad links; the head, its journal and the disk that has it
`cluster_node`       the edge of a node among several (around `engine.core.outside`)
`cluster`            lives of nodes and of the head, and calm at the end
`world`              all of it, and one run: faults, healing, liveness, census of what is left
`checks`, `marks`    what must hold at the end; what a long run must have hit
===================  =========================================================================

Everything that decides by chance asks the world's one `Random`, and nothing iterates over a set of
bytes, so a seed is a run: same messages at the same times in the same order, in any process.
"""
