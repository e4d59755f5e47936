"""One image or a batch of them: decoding, resampling, crops and colours."""
