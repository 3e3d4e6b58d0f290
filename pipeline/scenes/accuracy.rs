//! Accuracy of captions of scenes, attribute by attribute, found by parsing them.

use serde::Serialize;

use super::{
    grammar::{descriptive, position, short},
    scene::{Object, Scene},
    vocabulary::{Background, Colour, Shape, Size},
};

/// Largest number of objects that are parsed of a caption: more than any scene has.
const MAX_NAMED: usize = 8;

/// Counts over captions of scenes.
///
/// Each object that a caption names is paired with at most one of the scene's, so that the largest number of attributes
/// agrees. The order in which objects are named matters for exact captions alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Accuracy {
    /// Number of captions.
    pub captions: usize,
    /// Captions that equal the true descriptive caption word for word.
    pub descriptive: usize,
    /// Captions that equal the true short caption word for word.
    pub short: usize,
    /// Captions that name the right number of objects.
    pub count: usize,
    /// Captions that name the right background.
    pub background: usize,
    /// Number of objects in all scenes.
    pub objects: usize,
    /// Objects named with the right colour.
    pub colour: usize,
    /// Objects named with the right shape.
    pub shape: usize,
    /// Objects named with the right size.
    pub size: usize,
    /// Objects named with the right position.
    pub place: usize,
}

/// One object as a caption describes it.
#[derive(Debug, Default, PartialEq, Eq)]
struct NamedObject {
    size: Option<Size>,
    colour: Option<Colour>,
    shape: Option<Shape>,
    position: String,
}

impl Accuracy {
    /// Counts a caption of `scene`.
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
            .map(|object| objects.iter().map(|named| named.agreement(object)).collect())
            .collect();
        let [colour, shape, size, position] = best_pairing(&agreements, &mut vec![false; objects.len()]);
        self.colour += colour;
        self.shape += shape;
        self.size += size;
        self.place += position;
    }
}

impl NamedObject {
    /// Returns whether colour, shape, size and position equal the object's.
    fn agreement(&self, object: &Object) -> [bool; 4] {
        [
            self.colour == Some(object.colour),
            self.shape == Some(object.shape),
            self.size == Some(object.size),
            self.position == position(object),
        ]
    }
}

/// Counts agreeing attributes under the pairing with the most of them. `agreements` has a row per object of the scene and a
/// column per object of the caption; `taken` marks the columns in use.
fn best_pairing(agreements: &[Vec<[bool; 4]>], taken: &mut [bool]) -> [usize; 4] {
    let Some((row, rest)) = agreements.split_first() else { return [0; 4] };
    // An object may stay unpaired.
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

/// Parses a caption: objects in the order named, and the background. Other words are ignored.
fn parse(caption: &str) -> (Vec<NamedObject>, Option<Background>) {
    let words: Vec<&str> = caption.split([' ', ',']).filter(|w| !w.is_empty()).collect();
    let mut objects: Vec<NamedObject> = Vec::new();
    let (mut background, mut next) = (None, NamedObject::default());
    for (i, word) in words.iter().enumerate() {
        let find = |all: &[&'static str]| all.iter().position(|name| name == word);
        if let Some(at) = find(&Size::ALL.iter().map(|s| s.name()).collect::<Vec<_>>()) {
            next.size = Some(Size::ALL[at]);
        } else if let Some(at) = find(&Colour::ALL.iter().map(|c| c.name()).collect::<Vec<_>>()) {
            next.colour = Some(Colour::ALL[at]);
        } else if let Some(at) = find(&Shape::ALL.iter().map(|s| s.name()).collect::<Vec<_>>()) {
            next.shape = Some(Shape::ALL[at]);
            next.position = position_after(&words[i + 1..]);
            let named = std::mem::take(&mut next);
            if objects.len() < MAX_NAMED {
                objects.push(named);
            }
        } else if words.get(i + 1) == Some(&"background") {
            background = Background::ALL.iter().copied().find(|b| b.name() == *word);
        }
    }
    (objects, background)
}

/// Parses "at the top left" at the beginning of `words`; empty if there is no position.
fn position_after(words: &[&str]) -> String {
    const WORDS: [&str; 7] = ["top", "middle", "bottom", "left", "right", "center", "centre"];
    let [preposition @ ("at" | "on" | "in"), "the", rest @ ..] = words else { return String::new() };
    let named: Vec<&str> = rest.iter().copied().take_while(|w| WORDS.contains(w)).take(2).collect();
    if named.is_empty() { String::new() } else { format!("{preposition} the {}", named.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenes::sample;

    #[test]
    fn true_captions_agree_in_every_attribute() {
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
        // Short captions name the main subject, without size, position and background.
        assert_eq!((brief.short, brief.colour, brief.shape), (500, 500, 500));
        assert_eq!((brief.size, brief.place, brief.background, brief.descriptive), (0, 0, 0, 0));
        assert!(brief.count < 500);
    }

    #[test]
    fn mistakes_count_against_their_attribute() {
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
        // The order matters for the exact caption alone; no object counts twice.
        let turned =
            "a small blue ring in the center and a large red star at the top left on a teal background";
        assert_eq!(counts(turned), [1, 1, 2, 2, 2, 2, 0]);
        assert_eq!(counts("a red star and a red star and a red star")[..4], [0, 0, 1, 1]);
        assert_eq!(counts("buy now free shipping"), [0; 7]);
        assert_eq!(counts(""), [0; 7]);
    }
}
