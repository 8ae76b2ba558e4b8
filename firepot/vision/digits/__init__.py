"""5,000 handwritten digits that come with the installation; LICENSE.txt says whose they are."""
