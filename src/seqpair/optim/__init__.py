"""The optimisers: which parameters decay, StableAdamW, and Muon for the layers' matrices.

Must not know models, data, schedules or files. Entry points: `choice.make_optimizer`, `groups.parameter_groups`,
`stable_adamw.StableAdamW`, `muon.Muon`.
"""
