//! Names that cameras write where a description should stand. Only a whole text is one: "a nikon camera on a table" is
//! language, and so is a sentence about a model by its name.

/// What cameras and phones write into the description of every picture (EXIF `ImageDescription`).
const DESCRIPTIONS: [&str; 10] = [
    "olympus digital camera",
    "sony dsc",
    "kodak digital still camera",
    "minolta digital camera",
    "konica minolta digital camera",
    "samsung camera pictures",
    "samsung digital camera",
    "digital still camera",
    "jpeg digital camera",
    "exif jpeg picture",
];

/// First words of a camera's name.
const MAKERS: [&str; 20] = [
    "canon",
    "nikon",
    "sony",
    "fujifilm",
    "fuji",
    "olympus",
    "panasonic",
    "pentax",
    "leica",
    "kodak",
    "eastman",
    "casio",
    "samsung",
    "ricoh",
    "minolta",
    "konica",
    "hasselblad",
    "sigma",
    "gopro",
    "dji",
];

/// Words that make a maker's name a camera's, as does a code of letters and digits.
const SERIES: [&str; 30] = [
    "eos",
    "powershot",
    "ixus",
    "rebel",
    "coolpix",
    "finepix",
    "lumix",
    "optio",
    "exilim",
    "easyshare",
    "stylus",
    "cybershot",
    "cyber",
    "dsc",
    "dslr",
    "slt",
    "ilce",
    "nex",
    "dmc",
    "hero",
    "corporation",
    "corp",
    "company",
    "ltd",
    "inc",
    "imaging",
    "optical",
    "electronics",
    "techwin",
    "om",
];

/// Words that may stand among them.
const FILLERS: [&str; 9] = ["digital", "mark", "mk", "ii", "iii", "iv", "shot", "zoom", "co"];

/// Series that stand without their maker, which has an EXIF field of its own.
const STANDALONE: [&str; 5] = ["eos", "powershot", "coolpix", "finepix", "lumix"];

/// Whether a text is nothing but a camera's name or its standard description.
///
/// `words` are the text's words in lower case, `_`, `-` and `/` taken as spaces. CLIP's decoder leaves "5D" as `5 d`.
pub(super) fn is_camera(words: &[&str]) -> bool {
    if DESCRIPTIONS.contains(&words.join(" ").as_str()) {
        return true;
    }
    let Some((maker, model)) = words.split_first() else { return false };
    let digit = |word: &&str| word.bytes().any(|b| b.is_ascii_digit());
    let letter = |word: &&str| word.chars().any(char::is_alphabetic);
    let single = |word: &&str| letter(word) && word.chars().count() == 1;
    let series = |word: &&str| SERIES.contains(word) || MAKERS.contains(word);
    let belongs = |word: &&str| digit(word) || single(word) || series(word) || FILLERS.contains(word);
    let split_code = model.iter().any(&digit) && model.iter().any(&single);
    let telling = model.iter().any(|w| series(w) || (digit(w) && letter(w))) || split_code;
    let named = MAKERS.contains(maker) || STANDALONE.contains(maker);
    named && telling && model.iter().all(belongs)
}
