"""Image operations: decoding, resampling, crops and colours."""
