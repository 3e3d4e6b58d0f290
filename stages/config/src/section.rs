//! The macro that declares a section.

/// Declares a section: a struct whose fields stand with their documentation, their range and their default in one place.
///
/// Fields take `#[schemars(range(min = 1, max = 64))]` for an inclusive range, and with `#[schemars(extend(...))]`:
/// `"x-unit"` for the unit, `"x-default"` for a default that is no fixed value ("all cores"), `"x-expected"` for what a
/// value of a type of its own must be, `"x-flag"` for the flag that sets the key, and `"x-required" = true` for a key
/// without a default.
///
/// ```
/// recaption_config::section! {
///     /// How much is done.
///     pub struct WorkSection {
///         /// Threads that work.
///         #[schemars(range(min = 1, max = 64))]
///         pub threads: usize = 4,
///     }
/// }
/// assert_eq!(WorkSection::default().threads, 4);
/// ```
#[macro_export]
macro_rules! section {
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[$meta])*
        #[allow(unreachable_pub, reason = "a section may be private to its crate")]
        #[derive(
            Clone, Debug, PartialEq,
            $crate::derive::serde::Serialize, $crate::derive::serde::Deserialize, $crate::derive::schemars::JsonSchema,
        )]
        #[serde(deny_unknown_fields, default, crate = "recaption_config::derive::serde")]
        #[schemars(crate = "recaption_config::derive::schemars")]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}
