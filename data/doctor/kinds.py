"""The kinds of findings: what those of a kind have in common, and what to do about them."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What findings of a kind have in common.

    Args:
        title: what it is, to follow a number: '3 x TITLE'.
        remedy: what to do about it.
    """

    title: str
    remedy: str


_ROW = "write the row as 'class x y width height', fractions of the image"
_KINDS = [
    (r"nearly the same picture as ", "picture nearly as in another split", "split anew: python -m data.split"),
    (r"the same picture as .* so the measured", "picture of another split", "delete it from one of the two splits"),
    (r"the same picture as ", "picture twice in a split", "delete one, unless it should count twice"),
    (r"the same scene as ", "scene of another split", "look at them; split with --group scene"),
    (r"has no area$", "box without area", "draw the object again, or delete its label"),
    (r"no finite number$", "box with a value that is no number", "correct the four numbers"),
    (r"lies outside the ", "box outside the picture", "check whether picture and label belong together"),
    (r"sticks out of the ", "box that sticks out of the picture", "nothing; a large excess is a slip"),
    (r"of the same class stands in this image already", "box that stands twice", "delete the second"),
    (r"box is a '.*' box too", "object with two classes", "delete the label of the wrong class"),
    (r"one object labelled twice\?$", "pair of boxes on one object", "delete one of the two, if it is one object"),
    (r" is only .* px$", "tiny box", "delete it, or draw it again; smaller than 2 px nothing can be seen"),
    (r"covers the whole picture", "box of the whole picture", "check that the object fills the picture"),
    (r"is a sliver", "sliver, a box far longer than wide", "check for a slip of the mouse"),
    (r"objects, where half of the pictures", "very crowded picture", "check for labels of another"),
    (r"class .* is out of range", "class number that the set has not", "correct it, or add the class to 'names'"),
    (r"(class|label) '.*' is not among the names", "class that is not in 'names'", "correct it, or add it to 'names'"),
    (r"not among 'names' .* leave out", "classes that are not in 'names'", "'unreadable: object' trains without"),
    (r"in other letters$", "class in other letters", "nothing; or write it as in 'names'"),
    (r"has the name of class", "row with the name of a class", "nothing; or write its number"),
    (r"has decimal commas", "row with decimal commas", "nothing; or write points"),
    (r"looks like pixels", "row in pixels instead of fractions", "divide by the width and height of the image"),
    (r"as in predictions with a confidence", "row with six numbers", "these are predictions; take the confidence away"),
    (r"^[0-9]+ numbers; |is no whole number|something that is no number", "row that cannot be read", _ROW),
    (r"taken without the sign", "negative width or height", "nothing; or correct the sign"),
    (r"of negative size", "bbox of negative size", "nothing; or write x, y of the upper left corner"),
    (r"the two are exchanged", "corners in the wrong order", "nothing; or exchange them"),
    (r"rows are (outlines|boxes with)|have an outline and no bbox|shapes are polygons|polygons, m", "shapes' boxes",
     "nothing"),
    (r"image_id .* is not among the images", "annotation of no image", "delete it, or add its image"),
    (r"category_id .* is not among", "annotation of no category", "correct category_id, or add the category"),
    (r"iscrowd is ", "iscrowd that is neither 0 nor 1", "write 0 for an object, 1 for a region of many"),
    (r"bbox is .*expected", "bbox that cannot be read", "write [x, y, width, height], numbers"),
    (r"pycocotools takes", "annotation with id 0", "number annotations from 1"),
    (r"crowd regions", "crowd regions in place of objects", "write iscrowd 0, if they are objects"),
    (r"images have no label file", "pictures without a label file", "nothing, if they show no object; else label them"),
    (r"label file without an image", "label file without a picture", "add it, or delete the file"),
    (r"^labels of .* has others", "two label files that disagree", "delete the wrong one"),
    (r"^labels of ", "label file of several pictures", "give each picture a label file of its own"),
    (r"the same bytes as", "label file copied from another picture", "label the picture itself"),
    (r"no such image", "label of a picture that is not there", "add the picture, or correct its name"),
    (r"the labels are for ", "picture of another size than its labels say", "correct width and height, or the picture"),
    (r"the upright image is", "size in the label file that is not the picture's", "check that the boxes fit"),
    (r"not valid (XML|JSON)|not UTF-8|cannot be read \(|no file of labelme", "label file that cannot be read",
     "save it again, or restore it"),
    (r"^(the file is empty|not an image|cannot be decoded|32-bit|the header claims)", "picture that cannot be read",
     "put a whole file in its place"),
    (r"the file is cut off", "picture whose end is missing", "copy it again"),
    (r"nearly black|the same colour", "picture that shows nothing", "delete it, or find the right one"),
    (r"classes have no object", "classes without an object", "add examples, or take the class out of 'names'"),
    (r"has objects of .* and train none", "classes that train has not", "move examples to train; split anew: python -m "
     "data.split"),
    (r"^tiling: of ", "objects too large for the tiles", "take a larger tiling.size or tiling.overlap"),
    (r"of the pictures, but in .* of those of train", "class with another share than in train", "split anew: python -m "
     "data.split"),
    (r"is on line [0-9]+ already", "image listed twice", "delete the line"),
    (r"the image .* has this id already", "image id that stands twice", "give each image its own id"),
    (r"one image file under ", "image under several ids", "give all annotations to one entry"),
    (r"its file is that of image", "image entry that stands twice", "delete the entry"),
    (r"^'.*' is none of the [0-9]+ classes|images in no folder of a class", "folder of a class that the set has not",
     "add it to 'names', or delete it"),
    (r"^no image of class ", "classes without an object", "add examples, or take the class out of 'names'"),
    (r"its label file .* names .* as its image", "label file that names another picture", "correct <filename> in it"),
    (r"its label file is .*, but the others are ", "label file of another format", "write it as the others are"),
    (r"other objects there \(the first", "pictures with two labels that differ", "delete the wrong ones, or set "
     "'labels_dir'"),
    (r"^the classes have the same names as in|in another order than the categories", "classes in another order",
     "nothing"),
    (r"has an empty name$", "category without a name", "give it a name"),
    (r"two categories are named", "categories of one name", "give them different names, or one id"),
    (r"is the group of all others", "category that groups the others", "nothing"),
    (r"expected an 'id' and a 'file_name'", "image entry that cannot be read", "write its id and file_name"),
    (r"image ids such as .* are no whole numbers", "image ids that are no numbers", "nothing; or number the images"),
    (r"the file has no annotations", "label file without annotations", "nothing, if no picture shows an object"),
    (r"annotations have no area$", "annotations without an area", "nothing"),
    (r"^its id (is taken|is no whole)", "annotation id that cannot be used", "number annotations from 1, each once"),
    (r"the box of its outline is taken", "bbox that its outline replaces", "nothing; or correct the bbox"),
    (r"images are in the subset for", "file with several subsets", "nothing"),
    (r"tags of whole images are no objects", "tags of whole pictures", "nothing"),
    (r"images lie elsewhere than the file says", "pictures in another folder than named", "nothing; or set 'images'"),
    (r"has no box; expected|expected a number$|: points are |^points are |with a text 'label'|expected a number in <",
     "shape that cannot be read", "draw the object again"),
    (r"^there is no split 'val'", "set without val", "make one: python -m data.split"),
    (r"no object is labelled where", "object without a label, by the model", "label it, if it is one"),
    (r"fits the object better", "box that fits badly, by the model", "draw it again, if the model is right"),
    (r"the model sees ", "class that the model disputes", "correct the class, if the model is right"),
]  # fmt: skip
"""What messages of a kind match, in the order in which it is tried."""

_TABLE = [(re.compile(pattern), Kind(title, remedy)) for pattern, title, remedy in _KINDS]
KINDS = frozenset(kind for _, kind in _TABLE)
"""Those that have a title and a remedy of their own."""
UNUSABLE = {
    "the split cannot be used": Kind("split that cannot be used", "do what the message says"),
    "the splits cannot be used together": Kind("splits with different classes", "name the same classes in both"),
}
"""Kinds by the action taken, whatever the message is."""
_VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|[^ ]*/[^ ]*|-?[0-9][0-9.,e+-]*")


def kind_of(what: str, action: str = "") -> Kind:
    """The kind of a message; of one that is in no table, the message itself without its names and numbers."""
    if action in UNUSABLE:
        return UNUSABLE[action]
    for pattern, kind in _TABLE:
        if pattern.search(what):
            return kind
    return Kind(_VARIABLE.sub("..", what[:120]), "see the message")
