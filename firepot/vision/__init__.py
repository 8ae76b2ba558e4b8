"""Images: data sets, transforms and models."""
