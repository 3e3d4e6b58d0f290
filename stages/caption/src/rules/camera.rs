//! Names and standard descriptions that cameras write into EXIF instead of a description. Only a whole text counts: "a nikon
//! camera on a table" is language, and so is a sentence that names a model.

/// Texts that cameras and phones write into the description of every image (EXIF `ImageDescription`).
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

/// Makers, the first words of a camera's name.
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

/// Words that turn a maker's name into a camera's name, as does a code of letters and digits.
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

/// Words that a camera's name may hold besides.
const FILLERS: [&str; 9] = ["digital", "mark", "mk", "ii", "iii", "iv", "shot", "zoom", "co"];

/// Series that cameras write without their maker, which has an EXIF field of its own.
const STANDALONE: [&str; 5] = ["eos", "powershot", "coolpix", "finepix", "lumix"];

/// Returns whether a text is nothing but a camera's name or standard description.
///
/// `words` are the text's words in lower case, with `_`, `-` and `/` taken as spaces. CLIP's tokenizer detokenises "5D" as `5 d`.
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
    let has_model = model.iter().any(|w| series(w) || (digit(w) && letter(w))) || split_code;
    let named = MAKERS.contains(maker) || STANDALONE.contains(maker);
    named && has_model && model.iter().all(belongs)
}
