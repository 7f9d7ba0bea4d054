"""How it works: the article's story in twelve steps, computed live, for a stage."""

from anounet.app import routing, story

routing.enter("story")
story.show()
