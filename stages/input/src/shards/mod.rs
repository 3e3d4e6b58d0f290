//! Input patterns -> shards: brace ranges, globs, folders, lists of patterns. The first hop of a run: `-> ShardRef`.
//!
//! A pattern without a match is an error that names it; a shard that is named twice is read once. Only listings, sizes and
//! tags are asked for here, and the first bytes of files whose names do not show what they are.
//!
//! | file | what |
//! |---|---|
//! | `list` | patterns -> shards |
//! | `braces`, `glob`, `list_file` | the syntax of patterns |
//! | `folder` (with `files`, `probe`) | a folder -> the shards in it |
//! | `lookup` (with `regular`, `unversioned`) | a name -> size and version tag |
//! | `single` | one shard by its URL, where nothing is a pattern |
//! | `shard`, `version` | the types |

mod braces;
mod error;
mod files;
mod folder;
mod glob;
mod list;
mod list_file;
mod lookup;
mod probe;
mod regular;
mod shard;
mod single;
mod unversioned;
mod version;

pub use braces::{MAX_EXPANSION, expand_braces};
pub use error::ListError;
pub use files::{FileRole, FolderFiles, MetadataFile};
pub use list::list_shards;
pub(crate) use probe::is_image_file;
pub use shard::{ListPart, LookupError, Shard, ShardRef, ShardSource, TextRange};
pub use single::{is_folder, list_folder, look_up_object, secret_urls};
pub(crate) use unversioned::content_digest;
pub use version::{ObjectVersion, VersionTag};
