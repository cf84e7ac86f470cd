"""The EVM vocabulary: block ranges, Arrow schemas, checks. Pure: no I/O."""
