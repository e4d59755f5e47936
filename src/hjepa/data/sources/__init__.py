"""One file per source: each finds the images of a split and says what it found (`hjepa.data.listing.Listing`)."""
