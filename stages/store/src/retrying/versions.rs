//! Versions of an object.

use object_store::ObjectMeta;

/// Returns whether nothing in an object's metadata tells its versions apart: no entity tag, version or modification time.
#[must_use]
pub fn is_unversioned(meta: &ObjectMeta) -> bool {
    meta.e_tag.is_none() && meta.version.is_none() && meta.last_modified.timestamp() <= 0
}
