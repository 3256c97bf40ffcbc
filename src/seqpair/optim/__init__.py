"""The optimiser: which parameters decay, and StableAdamW.

Must not know models, data, schedules or files. Entry points: `groups.parameter_groups`,
`stable_adamw.StableAdamW`.
"""
