//! Parameter groups: which parameters are frozen, their share of the learning rate, and whether they decay.

use std::str::FromStr;

use recaption_onnx::checkpoint::{ModelConfig, Parameter};

/// How one parameter is treated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Whether the parameter is trained; otherwise it is frozen.
    pub trained: bool,
    /// Share of the learning rate, (0, 1].
    pub lr_scale: f64,
    /// Whether weight decay applies: matrices only (two dimensions and more), as in open_clip's training.
    pub decay: bool,
}

/// Part of a model that can be frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tower {
    Image,
    Pooler,
    Text,
    Decoder,
    Temperature,
}

/// A frozen part of a model: `image`, `pooler`, `text`, `decoder` or `temperature`; `image:6` is the first six blocks and
/// everything before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freeze {
    tower: Tower,
    layers: Option<usize>,
}

impl FromStr for Freeze {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, layers) = match text.split_once(':') {
            Some((name, n)) => {
                (name, Some(n.parse().map_err(|_| format!("`{text}`: `{n}` is not a number of layers"))?))
            }
            None => (text, None),
        };
        let tower = match name {
            "image" => Tower::Image,
            "pooler" => Tower::Pooler,
            "text" => Tower::Text,
            "decoder" => Tower::Decoder,
            "temperature" => Tower::Temperature,
            _ => {
                return Err(format!(
                    "`{text}`: expected image, pooler, text, decoder or temperature; `image:6` freezes the first six blocks and everything before them"
                ));
            }
        };
        if layers.is_some() && matches!(tower, Tower::Pooler | Tower::Temperature) {
            return Err(format!("`{text}`: {name} has no layers"));
        }
        Ok(Self { tower, layers })
    }
}

/// Returns a parameter's tower and its depth there: 0 before the blocks, i + 1 in block i, the number of blocks + 1 behind them.
fn tower_and_depth(c: &ModelConfig, name: &str) -> (Tower, usize) {
    let tower = if name == "logit_scale" {
        Tower::Temperature
    } else if name.starts_with("text_decoder.") {
        Tower::Decoder
    } else if name.starts_with("text.") {
        Tower::Text
    } else if ["visual.attn_pool", "visual.ln_post", "visual.proj"].iter().any(|p| name.starts_with(p)) {
        Tower::Pooler
    } else {
        Tower::Image
    };
    let block = ["resblocks.", "cross_attn."].iter().find_map(|kind| {
        let rest = name.split_once(kind)?.1;
        rest.split('.').next()?.parse::<usize>().ok()
    });
    let layers = match tower {
        Tower::Image => c.vision.layers,
        Tower::Text => c.text.layers,
        Tower::Decoder => c.decoder.map_or(0, |d| d.layers),
        Tower::Pooler | Tower::Temperature => 0,
    };
    let first = ["embedding", "conv1", "ln_pre", "cls_emb"].iter().any(|part| name.contains(part));
    let depth = match block {
        Some(block) => block + 1,
        None if first => 0,
        None => layers + 1,
    };
    (tower, depth)
}

/// Returns the group of each parameter of `list`. `layer_decay` multiplies the learning rate once for every block between a
/// parameter and its tower's end (BEiT, Bao et al. 2022); 1 is off.
#[must_use]
pub fn groups(c: &ModelConfig, list: &[Parameter], freeze: &[Freeze], layer_decay: f64) -> Vec<Group> {
    let last = |tower| match tower {
        Tower::Image => c.vision.layers + 1,
        Tower::Text => c.text.layers + 1,
        Tower::Decoder => c.decoder.map_or(0, |d| d.layers) + 1,
        Tower::Pooler | Tower::Temperature => 1,
    };
    list.iter()
        .map(|parameter| {
            let (tower, depth) = tower_and_depth(c, &parameter.name);
            let frozen =
                freeze.iter().any(|f| f.tower == tower && f.layers.is_none_or(|layers| depth <= layers));
            let below = last(tower).saturating_sub(depth);
            Group {
                trained: !frozen,
                lr_scale: layer_decay.powi(i32::try_from(below).unwrap_or(i32::MAX)),
                decay: parameter.shape.len() >= 2,
            }
        })
        .collect()
}
