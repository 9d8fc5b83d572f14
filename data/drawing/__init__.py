"""Pictures and JPEG files in whole numbers: what draws the embedded data set, byte for byte the same everywhere."""
