"""One module per source; each lists the images of a split as a `hjepa.data.listing.Listing`."""
