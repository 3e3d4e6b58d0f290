//! How much of a scene a caption tells, attribute by attribute, by parsing it.

use serde::Serialize;

use super::{Background, Colour, Object, Scene, Shape, Size, descriptive, grammar::place, short};

/// Objects of a caption that are looked at: more than any scene has.
const MOST_NAMED: usize = 8;

/// Counts over captions of scenes. Objects that a caption names are paired with the scene's so that most attributes agree,
/// each with one at most; the order in which they are named counts for the exact captions alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Accuracy {
    /// Captions.
    pub captions: usize,
    /// Captions that are the true descriptive one, word for word.
    pub descriptive: usize,
    /// Captions that are the true short one, word for word.
    pub short: usize,
    /// Captions that name as many objects as there are.
    pub count: usize,
    /// Captions that name the background.
    pub background: usize,
    /// True objects, of all scenes.
    pub objects: usize,
    /// Objects named with their colour.
    pub colour: usize,
    /// With their shape.
    pub shape: usize,
    /// With their size.
    pub size: usize,
    /// With their place.
    pub place: usize,
}

/// What a caption says of one object.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    size: Option<Size>,
    colour: Option<Colour>,
    shape: Option<Shape>,
    place: String,
}

impl Accuracy {
    /// Adds a caption of `scene`.
    pub fn add(&mut self, scene: &Scene, caption: &str) {
        let (objects, background) = parse(caption);
        self.captions += 1;
        self.descriptive += usize::from(caption == descriptive(scene));
        self.short += usize::from(caption == short(scene));
        self.count += usize::from(objects.len() == scene.objects().len());
        self.background += usize::from(background == Some(scene.background()));
        self.objects += scene.objects().len();
        let agreements: Vec<Vec<[bool; 4]>> = scene
            .objects()
            .iter()
            .map(|object| objects.iter().map(|said| said.agrees(object)).collect())
            .collect();
        let [colour, shape, size, place] = best_pairing(&agreements, &mut vec![false; objects.len()]);
        self.colour += colour;
        self.shape += shape;
        self.size += size;
        self.place += place;
    }
}

impl Said {
    /// Whether colour, shape, size and place are the object's.
    fn agrees(&self, object: &Object) -> [bool; 4] {
        [
            self.colour == Some(object.colour),
            self.shape == Some(object.shape),
            self.size == Some(object.size),
            self.place == place(object),
        ]
    }
}

/// Counts of agreeing attributes under the pairing with the most. `agreements` has a row per object and a column per object
/// that was named; `taken` are the columns in use.
fn best_pairing(agreements: &[Vec<[bool; 4]>], taken: &mut [bool]) -> [usize; 4] {
    let Some((row, rest)) = agreements.split_first() else { return [0; 4] };
    // An object may stay without a partner.
    let mut best = best_pairing(rest, taken);
    for (column, agrees) in row.iter().enumerate() {
        if taken[column] {
            continue;
        }
        taken[column] = true;
        let mut counts = best_pairing(rest, taken);
        taken[column] = false;
        counts.iter_mut().zip(agrees).for_each(|(count, agree)| *count += usize::from(*agree));
        if counts.iter().sum::<usize>() > best.iter().sum() {
            best = counts;
        }
    }
    best
}

/// Objects in the order named, and the background. Words that say nothing are passed over.
fn parse(caption: &str) -> (Vec<Said>, Option<Background>) {
    let words: Vec<&str> = caption.split([' ', ',']).filter(|w| !w.is_empty()).collect();
    let mut objects: Vec<Said> = Vec::new();
    let (mut background, mut next) = (None, Said::default());
    for (i, word) in words.iter().enumerate() {
        let find = |all: &[&'static str]| all.iter().position(|name| name == word);
        if let Some(at) = find(&Size::ALL.iter().map(|s| s.name()).collect::<Vec<_>>()) {
            next.size = Some(Size::ALL[at]);
        } else if let Some(at) = find(&Colour::ALL.iter().map(|c| c.name()).collect::<Vec<_>>()) {
            next.colour = Some(Colour::ALL[at]);
        } else if let Some(at) = find(&Shape::ALL.iter().map(|s| s.name()).collect::<Vec<_>>()) {
            next.shape = Some(Shape::ALL[at]);
            next.place = place_after(&words[i + 1..]);
            let said = std::mem::take(&mut next);
            if objects.len() < MOST_NAMED {
                objects.push(said);
            }
        } else if words.get(i + 1) == Some(&"background") {
            background = Background::ALL.iter().copied().find(|b| b.name() == *word);
        }
    }
    (objects, background)
}

/// "at the top left" at the beginning of `words`, or nothing.
fn place_after(words: &[&str]) -> String {
    const WORDS: [&str; 7] = ["top", "middle", "bottom", "left", "right", "center", "centre"];
    let [preposition @ ("at" | "on" | "in"), "the", rest @ ..] = words else { return String::new() };
    let said: Vec<&str> = rest.iter().copied().take_while(|w| WORDS.contains(w)).take(2).collect();
    if said.is_empty() { String::new() } else { format!("{preposition} the {}", said.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn true_captions_are_right_in_everything() {
        let (mut long, mut brief) = (Accuracy::default(), Accuracy::default());
        for index in 0..500 {
            let (scene, _) = sample(3, index);
            long.add(&scene, &descriptive(&scene));
            brief.add(&scene, &short(&scene));
        }
        assert_eq!((long.captions, long.descriptive, long.count, long.background), (500, 500, 500, 500));
        let objects = long.objects;
        assert!(objects > 500);
        assert_eq!((long.colour, long.shape, long.size, long.place), (objects, objects, objects, objects));
        // Short ones name the main subject, without size, place and background.
        assert_eq!((brief.short, brief.colour, brief.shape), (500, 500, 500));
        assert_eq!((brief.size, brief.place, brief.background, brief.descriptive), (0, 0, 0, 0));
        assert!(brief.count < 500);
    }

    #[test]
    fn each_mistake_is_counted_where_it_is() {
        let json = r#"{"background": "teal", "objects": [{"shape": "star", "colour": "red", "size": "large", "row": 0, "col": 0, "dx": 0, "dy": 0}, {"shape": "ring", "colour": "blue", "size": "small", "row": 1, "col": 1, "dx": 0, "dy": 0}]}"#;
        let scene = Scene::from_json(json.as_bytes()).expect("a scene");
        let counts = |caption: &str| {
            let mut a = Accuracy::default();
            a.add(&scene, caption);
            [a.count, a.background, a.colour, a.shape, a.size, a.place, a.descriptive]
        };
        let truth =
            "a large red star at the top left and a small blue ring in the center on a teal background";
        assert_eq!(counts(truth), [1, 1, 2, 2, 2, 2, 1]);
        let wrong = "a large red heart at the top and a large green ring in the center on a pink background";
        assert_eq!(counts(wrong), [1, 0, 1, 1, 1, 1, 0]);
        assert_eq!(counts("a red star"), [0, 0, 1, 1, 0, 0, 0]);
        // The order does not matter but for the exact caption; no object is right twice.
        let turned =
            "a small blue ring in the center and a large red star at the top left on a teal background";
        assert_eq!(counts(turned), [1, 1, 2, 2, 2, 2, 0]);
        assert_eq!(counts("a red star and a red star and a red star")[..4], [0, 0, 1, 1]);
        assert_eq!(counts("buy now free shipping"), [0; 7]);
        assert_eq!(counts(""), [0; 7]);
    }
}
