"""Sources: files of many formats, here or elsewhere, read as documents in one fixed order."""
