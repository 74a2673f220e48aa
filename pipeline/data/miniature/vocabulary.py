"""Words of the miniature suite: for each domain its attributes' phrases and its sentence templates.

Out: `DOMAINS`, plain data that `pipeline.data.miniature.grammar` checks and turns into grammars.
Phrases with an order of magnitude are listed in that order: a generator renders a phrase by its index.
"""

from __future__ import annotations

from typing import Final

Domain = tuple[dict[str, tuple[str, ...]], tuple[str, ...]]

_IMAGE: Final[Domain] = (
    {
        "shape": ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "crescent"),
        "colour": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"),
        "size": ("tiny", "small", "medium", "large", "huge", "giant"),
        "position": (
            "top left", "upper edge", "top right",
            "left edge", "centre", "right edge",
            "bottom left", "lower edge", "bottom right",
        ),
        "count": ("two", "three", "four", "five", "six", "seven"),
    },
    (
        "a {size} {colour} {shape} lies at the {position} of the picture among {count} white dots",
        "{count} pale dots are spread over a scene whose {position} shows a {colour} {shape} of {size} size",
        "at the {position} there is a {shape} painted in {colour} it looks {size} beside {count} dots",
        "the drawing has {count} specks and one {shape} in {colour} which is {size} and sits at the {position}",
        "we see a {colour} figure shaped like a {shape} {size} in extent at the {position} with {count} specks",
        "this {size} {shape} at the {position} is filled with {colour} while {count} dots surround it",
    ),
)  # fmt: skip

_AUDIO: Final[Domain] = (
    {
        "source": ("flute", "clarinet", "violin", "pipe organ", "bell", "motor", "wind", "synthesizer"),
        "pitch": ("deep", "low", "middle", "raised", "high", "piercing"),
        "loudness": ("faint", "quiet", "moderate", "strong", "loud", "deafening"),
        "rhythm": ("sustained", "doubled", "galloping", "stuttering", "trembling", "swelling", "fading"),
    },
    (
        "a {loudness} sound of a {source} is heard at a {pitch} pitch with {rhythm} rhythm",
        "the {source} plays one {pitch} note in a {rhythm} manner and its volume is {loudness}",
        "with {rhythm} timing and {loudness} level the recording carries the {pitch} tone of a {source}",
        "listen to a {pitch} {source} whose {rhythm} pattern comes through at {loudness} volume",
        "this clip holds a {rhythm} note it is {loudness} and {pitch} and comes from a {source}",
        "recorded at {loudness} volume the {rhythm} tone of the {source} stays in the {pitch} register",
    ),
)

_VIDEO: Final[Domain] = (
    {
        "object": ("ball", "box", "kite", "wedge", "hoop", "beam", "plus", "pair of discs"),
        "motion": ("gliding", "bouncing", "wobbling", "flashing", "growing", "shrinking"),
        "direction": ("left", "right", "up", "down", "northeast", "northwest", "southeast", "southwest"),
        "speed": ("creeping", "slow", "leisurely", "brisk", "fast", "racing"),
    },
    (
        "a {object} is {motion} inside the frame and drifts {direction} at {speed} speed",
        "the clip shows a {motion} {object} that travels {direction} with a {speed} pace",
        "heading {direction} at a {speed} rate a {object} keeps {motion} before the camera",
        "in this short film one {object} moves {direction} while {motion} and its tempo is {speed}",
        "the camera follows a {speed} {object} going {direction} and {motion} all the way",
        "watch the {motion} {object} cross the view with {speed} movement bound {direction}",
    ),
)

_SPEECH: Final[Domain] = (
    {
        "speaker": ("man", "woman", "boy", "girl", "grandfather", "grandmother"),
        "word": ("hello", "yes", "no", "open", "stop", "water", "music", "away", "banana", "please"),
        "mood": ("calm", "angry", "happy", "sad", "curious", "nervous"),
    },
    (
        "the voice of a {speaker} says the word {word} in a {mood} way",
        "a {mood} {speaker} can be heard saying {word} into the microphone",
        "the utterance is {word} spoken by a {speaker} who sounds rather {mood}",
        "someone says {word} here it is a {speaker} and the tone is {mood}",
        "in a {mood} voice the {speaker} pronounces the single word {word} clearly",
        "this recording of {word} comes from a {speaker} whose mood seems {mood}",
    ),
)

_SATELLITE: Final[Domain] = (
    {
        "land": ("forest", "farmland", "desert", "grassland", "wetland", "snowfield", "orchard", "quarry"),
        "density": ("isolated", "sparse", "scattered", "clustered", "dense", "packed"),
        "water": ("a river", "a lake", "a canal", "some ponds", "a coastline", "dry ground"),
        "side": ("north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest"),
    },
    (
        "the tile is covered by {land} with {water} and {density} buildings in the {side}",
        "{density} houses stand in the {side} of this {land} scene which also has {water}",
        "seen from orbit the {side} holds {density} settlement within {land} and we notice {water}",
        "the satellite passed over {land} where {water} appears and the {side} shows {density} roofs",
        "in the {side} part of the {land} there are {density} houses and elsewhere {water}",
        "an aerial view of {water} and {land} whose {side} corner is filled with {density} roofs",
    ),
)

_ASTRONOMY: Final[Domain] = (
    {
        "kind": ("dwarf", "starburst", "quiescent", "dusty", "compact", "giant"),
        "arms": ("armless", "single armed", "twin armed", "triple armed", "four armed"),
        "tilt": ("face on", "leaning", "inclined", "edge on"),
        "feature": ("bar", "ring", "jet", "companion", "dust lane", "luminous core"),
        "brightness": ("faint", "dim", "modest", "bright", "brilliant", "dazzling"),
    },
    (
        "a {brightness} {kind} galaxy that is {arms} and {tilt} with a {feature} in view",
        "this {arms} galaxy of the {kind} class appears {tilt} and {brightness} and has a {feature}",
        "the telescope caught a {feature} in a {kind} system which is {tilt} {arms} and {brightness}",
        "seen {tilt} the {brightness} galaxy is {arms} and {kind} and it shows a {feature}",
        "the image displays a {kind} galaxy {brightness} in flux {tilt} in pose {arms} with a {feature}",
        "with its {feature} this {tilt} {arms} object is a {kind} galaxy of {brightness} light",
    ),
)

_IMU: Final[Domain] = (
    {
        "activity": ("walking", "running", "cycling", "rowing", "skipping", "climbing", "hopping", "crawling"),
        "pace": ("sluggish", "slow", "relaxed", "brisk", "fast", "frantic"),
        "surface": ("asphalt", "carpet", "grass", "sand", "snow", "gravel"),
        "place": ("wrist", "ankle", "chest", "waist", "pocket", "helmet", "backpack"),
    },
    (
        "a person is {activity} on {surface} at a {pace} pace with the sensor on the {place}",
        "the {place} sensor recorded someone {activity} over {surface} with {pace} steps",
        "with the device at the {place} we measure {pace} {activity} across a stretch of {surface}",
        "the motion trace tells of {pace} {activity} on {surface} taken from the {place} of the wearer",
        "someone keeps {activity} in a {pace} tempo the unit sits at the {place} and the ground is {surface}",
        "over {surface} the wearer goes {activity} and the {place} unit feels a {pace} rhythm",
    ),
)

_MOLECULE: Final[Domain] = (
    {
        "rings": ("noncyclic", "monocyclic", "bicyclic", "tricyclic", "tetracyclic"),
        "group": ("alcohol", "carboxylic acid", "amine", "amide", "ester", "nitrile", "ketone", "nitro", "thiol"),
        "halogen": ("halogen free", "fluorinated", "chlorinated", "brominated", "iodinated", "mixed halogens"),
        "mass": ("featherlight", "light", "midweight", "hefty", "heavy", "massive"),
    },
    (
        "a {mass} {rings} compound that bears the {group} group and is listed as {halogen}",
        "this molecule is {rings} and {halogen} its main function is {group} and its weight is {mass}",
        "the {group} function sits on a {rings} skeleton which is {halogen} and {mass} in mass",
        "chemists call the structure {halogen} and {mass} it is {rings} and carries the {group} unit",
        "with a {rings} frame and the {group} motif the {mass} substance counts as {halogen}",
        "among {mass} substances this {halogen} one contains the {group} group on a {rings} scaffold",
    ),
)

_DIGITS: Final[Domain] = (
    {
        "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        "stroke": ("thin", "normal", "bold", "thick"),
        "slant": ("backward", "upright", "slanted", "steep"),
        "width": ("narrow", "medium", "wide"),
        "weight": ("raised", "centred", "lowered"),
    },
    (
        "the digit {digit} written in {stroke} ink with {slant} posture {width} form and {weight} balance",
        "a {width} handwritten {digit} in {stroke} strokes whose lean is {slant} and whose mass is {weight}",
        "someone wrote {digit} here the stroke is {stroke} the lean {slant} the shape {width} and {weight}",
        "this scan shows a {slant} {stroke} figure {digit} that looks {width} and {weight} on paper",
        "with {weight} mass and {slant} posture a {stroke} pen drew the {width} numeral {digit}",
        "the {stroke} numeral reads {digit} it stands {slant} and {weight} and is {width} in outline",
    ),
)

DOMAINS: Final[dict[str, Domain]] = {
    "image": _IMAGE,
    "audio": _AUDIO,
    "video": _VIDEO,
    "speech": _SPEECH,
    "satellite": _SATELLITE,
    "astronomy": _ASTRONOMY,
    "imu": _IMU,
    "molecule": _MOLECULE,
    "digits": _DIGITS,
}
"""`name -> (attribute -> phrases, templates)` of every domain."""
