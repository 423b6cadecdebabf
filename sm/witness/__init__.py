"""Who needs an image, besides its children in sight: asked before anything is destroyed."""
