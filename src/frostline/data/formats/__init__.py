"""One module per file format: from a file's bytes to its pixels, or to the reason why not.

Pillow decodes; around it these modules see to what it leaves out: transparency in every mode, pixels that no frame
draws, ends that are missing, layouts that it does not know. Metadata never reaches it, so none can spoil an image.
"""
