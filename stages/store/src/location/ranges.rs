//! A listing of many keys in several ranges at once.
//!
//! A store returns 1,000 keys a page, and each page names the next: 100,000 keys at 100 ms a page take 10 seconds. From
//! the fourth page on, a range of keys that are still to be listed is divided near its middle ([`KeySpace`]) as long as
//! there are free requests: its second half begins with a request of its own. Where there was little in the second half, the
//! next boundary is the end of the beginning that the keys of the last page have in common. The boundaries are only guesses; ranges do not
//! overlap and cover all keys, so every key is listed once wherever they lie.
//!
//! Only for stores that list in the order of keys and can begin after any of them. Order is checked: a store that breaks it is
//! listed page by page.

use std::time::Duration;

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream, stream::FuturesUnordered};
use object_store::{Error, ObjectMeta, path::Path};

use super::{
    Location,
    key_space::{KeySpace, common_prefix, end_of_prefix},
};
use crate::{ErrorKind, RetryBudget, RetryPolicy, user_message};

/// Further attempts at a listing that ends early. Pages have no attempts of their own: a listing starts over, or goes on after its
/// last key.
pub(super) const LIST_RETRIES: RetryPolicy =
    RetryPolicy::new(4, Duration::from_secs(1), Duration::from_secs(1));

/// Requests of one listing at the same time.
const CONCURRENT_REQUESTS: usize = 16;
/// Keys of a page, in all stores that are listed in ranges.
const PAGE: usize = 1000;
/// Keys that are listed one page after another before the first division: small folders cost no further request.
const MIN_KEYS: usize = 2 * PAGE;
/// Keys that a range must still have, as estimated, to be divided.
const MIN_REMAINING: f64 = 2.0 * PAGE as f64;
/// A range whose first page has fewer keys was not worth its request.
const FEW_KEYS: usize = PAGE / 10;
/// Such requests that are made in any case, and one more for this many that were worth it.
const FREE_MISSES: usize = 16;
const PAGES_PER_MISS: usize = 4;
/// One key in so many is added to the estimate.
const SAMPLED: usize = 100;

/// Why a listing in ranges ended early.
pub(super) enum RangeError {
    /// The store failed for good.
    Store(Error),
    /// The store does not list in the order of keys, or cannot begin after a key.
    Unordered,
}

/// A stream of a range's keys, from the one after `cursor`.
type Listing = BoxStream<'static, object_store::Result<ObjectMeta>>;

/// Up to [`PAGE`] objects, and the rest of the stream unless it has ended.
type Page = (usize, object_store::Result<(Vec<ObjectMeta>, Option<Listing>)>);

/// The last page of a range: its first and last key, and their number.
struct LastPage(String, String, usize);

/// The keys after `after` and up to `until`, all without the folder's path.
struct Range<T> {
    after: String,
    /// `None`: all that follow.
    until: Option<String>,
    last_page: Option<LastPage>,
    listed: Vec<T>,
    /// Keys that were expected before the first page.
    expected: f64,
    /// Whether there was little beyond its last boundary.
    has_missed: bool,
    is_active: bool,
}

impl<T> Range<T> {
    fn new(after: String, until: Option<String>, expected: f64) -> Self {
        let (last_page, listed) = (None, Vec::new());
        Self { after, until, last_page, listed, expected, has_missed: false, is_active: true }
    }

    /// Returns the key after which this range goes on.
    fn begin(&self) -> &str {
        self.last_page.as_ref().map_or(&self.after, |LastPage(_, last, _)| last)
    }

    /// Estimates the keys that are still to be listed.
    fn remaining(&self, space: &KeySpace) -> f64 {
        match &self.last_page {
            _ if !self.is_active => 0.0,
            Some(LastPage(first, last, count)) => {
                space.remaining((first, last, *count), self.until.as_deref())
            }
            None => self.expected,
        }
    }
}

/// A listing in progress.
pub(super) struct RangeListing<'a, T, F> {
    folder: &'a Location,
    keep: F,
    /// In the order of creation.
    ranges: Vec<Range<T>>,
    /// Numbers of the ranges in the order of keys.
    order: Vec<usize>,
    space: KeySpace,
    /// Objects listed so far.
    count: usize,
    max: usize,
    /// Pages that were worth their request, and those that were not.
    hits: usize,
    misses: usize,
    /// Ranges whose first page was requested.
    unseen: usize,
    budget: RetryBudget,
    requests: FuturesUnordered<BoxFuture<'static, Page>>,
}

impl<'a, T, F: FnMut(ObjectMeta) -> Option<T>> RangeListing<'a, T, F> {
    /// Prepares the listing of at most `max` objects below `folder`. Returns those that `keep` returns.
    pub(super) fn new(folder: &'a Location, max: usize, keep: F) -> Self {
        Self {
            folder,
            keep,
            ranges: vec![Range::new(String::new(), None, 0.0)],
            order: vec![0],
            space: KeySpace::default(),
            count: 0,
            max,
            hits: 0,
            misses: 0,
            unseen: 1,
            budget: LIST_RETRIES.budget(),
            requests: FuturesUnordered::new(),
        }
    }

    /// Lists all keys, in their order.
    pub(super) async fn run(mut self) -> Result<Vec<T>, RangeError> {
        let first = self.folder.store.list(Some(&self.folder.path));
        self.requests.push(next_page(0, first).boxed());
        while let Some((range, page)) = self.requests.next().await {
            match page {
                Ok((metas, rest)) => {
                    self.budget.reset();
                    self.take(range, metas, rest)?;
                }
                Err(error) => self.retry(range, error)?,
            }
            self.divide();
        }
        let mut all = Vec::with_capacity(self.ranges.iter().map(|range| range.listed.len()).sum());
        for range in self.order {
            all.append(&mut std::mem::take(&mut self.ranges[range].listed));
        }
        Ok(all)
    }

    /// Takes a page of a range.
    fn take(
        &mut self,
        number: usize,
        mut metas: Vec<ObjectMeta>,
        rest: Option<Listing>,
    ) -> Result<(), RangeError> {
        let range = &mut self.ranges[number];
        let folder = &self.folder.path;
        let key = |meta: &ObjectMeta| key_in(folder, &meta.location).unwrap_or_default().to_owned();
        // A marker of the folder itself may be the first key; any other must follow the last one.
        let is_ordered = metas.is_sorted_by(|a, b| a.location < b.location)
            && (range.begin().is_empty()
                || metas.first().is_none_or(|first| key(first).as_str() > range.begin()));
        if !is_ordered {
            return Err(RangeError::Unordered);
        }
        let end = range.until.as_ref().map_or(metas.len(), |until| {
            metas.partition_point(|meta| {
                key_in(folder, &meta.location).is_none_or(|key| key <= until.as_str())
            })
        });
        let rest = rest.filter(|_| end == metas.len());
        metas.truncate(end);
        self.count += metas.len();
        if self.count > self.max {
            return Err(RangeError::Store(too_many(self.max)));
        }
        let is_first = range.last_page.is_none();
        let is_miss = is_first && metas.len() < FEW_KEYS;
        if let (Some(first), Some(last)) = (metas.first(), metas.last()) {
            metas.iter().step_by(SAMPLED).chain([last]).for_each(|meta| self.space.insert(&key(meta)));
            range.last_page = Some(LastPage(key(first), key(last), metas.len()));
        }
        range.listed.extend(metas.into_iter().filter_map(&mut self.keep));
        match rest {
            Some(rest) => self.requests.push(next_page(number, rest).boxed()),
            None => range.is_active = false,
        }
        (self.hits, self.misses) = (self.hits + usize::from(!is_miss), self.misses + usize::from(is_miss));
        self.unseen -= usize::from(is_first);
        if let Some(before) = self.place_of(number).checked_sub(1) {
            self.ranges[self.order[before]].has_missed = is_miss;
        }
        Ok(())
    }

    /// Returns the place of a range in the order of keys.
    fn place_of(&self, number: usize) -> usize {
        self.order.iter().position(|other| *other == number).unwrap_or_default()
    }

    /// Goes on with a range after its last key, after a pause.
    fn retry(&mut self, number: usize, error: Error) -> Result<(), RangeError> {
        let transient = ErrorKind::of(&error) == ErrorKind::Transient;
        let Some(pause) = transient.then(|| self.budget.next_pause(None)).flatten() else {
            return Err(RangeError::Store(error));
        };
        tracing::warn!(folder = self.folder.url(), error = user_message(&error), "listing failed; retrying");
        let listing = self.listing_after(self.ranges[number].begin());
        let page = async move {
            tokio::time::sleep(pause).await;
            next_page(number, listing).await
        };
        self.requests.push(page.boxed());
        Ok(())
    }

    /// Divides ranges as long as there are free requests and it is worth one.
    fn divide(&mut self) {
        while self.count > MIN_KEYS
            && self.requests.len() < CONCURRENT_REQUESTS
            && self.misses <= FREE_MISSES + self.hits / PAGES_PER_MISS
            && self.unseen <= (1 + self.hits).saturating_sub(2 * self.misses)
        {
            let Some((number, boundary)) = self.best_division() else { return };
            let (new, all) = (self.ranges.len(), self.ranges[number].remaining(&self.space));
            let range = &mut self.ranges[number];
            let until = range.until.replace(boundary.clone());
            (range.expected, range.has_missed) = (all / 2.0, false);
            let first = range.remaining(&self.space);
            let second = Range::new(boundary, until, (all - first).max(0.0));
            let page = next_page(new, self.listing_after(&second.after));
            self.requests.push(page.boxed());
            self.order.insert(self.place_of(number) + 1, new);
            self.ranges.push(second);
            self.unseen += 1;
        }
    }

    /// Returns the range to be divided next, and at which key.
    fn best_division(&self) -> Option<(usize, String)> {
        // The last range also covers all keys that begin in another way than those seen so far.
        let last = *self.order.last()?;
        let range = &self.ranges[last];
        if range.is_active
            && range.last_page.is_some()
            && let Some(end) = self.space.end()
            && self.is_within(range, &end)
        {
            return Some((last, end));
        }
        let active = self.ranges.iter().enumerate().filter(|(_, range)| range.is_active);
        let estimated = active.map(|(number, range)| (number, range, range.remaining(&self.space)));
        let (number, range, remaining) = estimated.max_by(|(.., a), (.., b)| a.total_cmp(b))?;
        if remaining < MIN_REMAINING {
            return None;
        }
        let beyond_page = range.last_page.as_ref().filter(|_| range.has_missed || remaining.is_infinite());
        let beyond_page = beyond_page.and_then(|LastPage(first, last, _)| {
            end_of_prefix(common_prefix(first, last).to_owned()).filter(|end| self.is_within(range, end))
        });
        let middle = || self.space.middle(range.begin(), range.until.as_deref());
        let boundary = beyond_page.or_else(middle)?;
        self.is_within(range, &boundary).then_some((number, boundary))
    }

    /// Returns whether a key divides what is left of a range, and a path can name it.
    fn is_within(&self, range: &Range<T>, key: &str) -> bool {
        key > range.begin()
            && range.until.as_deref().is_none_or(|until| key < until)
            && Path::parse(key).is_ok_and(|path| path.as_ref() == key)
    }

    /// Lists the keys after `key`; all where it is empty.
    fn listing_after(&self, key: &str) -> Listing {
        let Location { store, path, .. } = self.folder;
        match Path::parse(format!("{path}/{key}")) {
            Ok(after) if !key.is_empty() => store.list_with_offset(Some(path), &after),
            _ => store.list(Some(path)),
        }
    }
}

/// Returns a key without the folder's path; `None` for the folder itself.
fn key_in<'p>(folder: &Path, path: &'p Path) -> Option<&'p str> {
    if folder.as_ref().is_empty() {
        return Some(path.as_ref());
    }
    path.as_ref().strip_prefix(folder.as_ref())?.strip_prefix('/')
}

/// Reads what a store returns at once, up to a page. A page that is full is not read beyond: that would be a request.
async fn next_page(range: usize, mut listing: Listing) -> Page {
    let mut metas = Vec::new();
    match listing.next().await {
        Some(Ok(meta)) => metas.push(meta),
        Some(Err(error)) => return (range, Err(error)),
        None => return (range, Ok((metas, None))),
    }
    while metas.len() < PAGE {
        match listing.next().now_or_never() {
            Some(Some(Ok(meta))) => metas.push(meta),
            Some(Some(Err(error))) => return (range, Err(error)),
            Some(None) => return (range, Ok((metas, None))),
            None => break,
        }
    }
    (range, Ok((metas, Some(listing))))
}

/// Returns the error of a folder with too many objects.
pub(super) fn too_many(max: usize) -> Error {
    let what = format!("the folder has more than {max} objects: name a folder below it");
    Error::Generic { store: "listing", source: what.into() }
}
