"""The names of a release directory.

concept_image/<concept>/*          reference images
concept_image/dataset.json         class nouns and generation prompts
knowledge_data/<concept>.json      knowledge items
visual_ckpt/<concept>/             optional: a stage-1 LoRA
"""

IMAGE_FOLDER = "concept_image"
DATASET_FILE = "concept_image/dataset.json"
KNOWLEDGE_FOLDER = "knowledge_data"
CHECKPOINT_FOLDER = "visual_ckpt"

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Files of a concept's folder that are reference images, case aside. Others are passed over, with a note."""
