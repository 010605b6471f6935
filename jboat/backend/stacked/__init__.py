"""Arrays of several tasks in one, and the functions of Jittor that compute with them task by task.

An objective is written for one task. Here it runs once for many: what differs from task to task, batches and
lower-level parameters, is a :class:`~jboat.backend.stacked.array.Stacked`, an array with a first axis more that the
objective does not see, and :mod:`~jboat.backend.stacked.places` puts functions in the place of Jittor's that know of
it. A function that is not among them cannot take such an array, and raises.
"""
