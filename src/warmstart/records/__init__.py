"""The records that a run writes; each is one readable file of the run folder, or a part of one."""
