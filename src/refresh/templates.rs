//! The cache of refresh programs of one process, with the statements' templates and plans in them. When it is full, what was not used for
//! longest goes.

use lru::LruCache;
use std::num::NonZeroUsize;
use std::rc::Rc;

/// What is kept for each stream table, by its id.
pub struct Templates<T> {
    kept: LruCache<i64, Rc<T>>,
}

impl<T> Templates<T> {
    pub fn new(most: NonZeroUsize) -> Templates<T> {
        Templates { kept: LruCache::new(most) }
    }

    /// What is kept for a stream table, if it still `serves`: looking alone does not count as use.
    pub fn find(&mut self, pgt_id: i64, serves: impl Fn(&T) -> bool) -> Option<Rc<T>> {
        let found = self.kept.peek(&pgt_id).filter(|kept| serves(kept)).cloned()?;
        self.kept.promote(&pgt_id);
        Some(found)
    }

    /// Keeps this for a stream table, instead of what it had; says how many others had to go, as no more than `most` may stay.
    pub fn keep(&mut self, pgt_id: i64, made: Rc<T>, most: NonZeroUsize) -> usize {
        self.kept.pop(&pgt_id);
        let before = self.kept.len();
        if self.kept.cap() != most {
            self.kept.resize(most);
        }
        self.kept.put(pgt_id, made);
        before + 1 - self.kept.len()
    }

    /// Drops what is `stale`.
    pub fn forget(&mut self, stale: impl Fn(&T) -> bool) {
        let gone: Vec<i64> = self.kept.iter().filter(|(_, kept)| stale(kept)).map(|(&pgt_id, _)| pgt_id).collect();
        gone.iter().for_each(|pgt_id| drop(self.kept.pop(pgt_id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();

    fn kept(templates: &mut Templates<&'static str>) -> Vec<i64> {
        (0..10).filter(|id| templates.kept.contains(id)).collect()
    }

    #[test]
    fn what_was_used_last_stays() {
        let mut templates = Templates::new(TWO);
        assert_eq!((templates.keep(1, Rc::new("one"), TWO), templates.keep(2, Rc::new("two"), TWO)), (0, 0));
        assert_eq!(templates.find(1, |_| true).as_deref(), Some(&"one"));
        assert_eq!(templates.keep(3, Rc::new("three"), TWO), 1);
        assert_eq!(kept(&mut templates), [1, 3]);
        assert_eq!(templates.keep(3, Rc::new("other"), TWO), 0, "instead of its own");
        assert_eq!(templates.keep(4, Rc::new("four"), NonZeroUsize::MIN), 2);
        assert_eq!(kept(&mut templates), [4]);
    }

    #[test]
    fn looking_is_not_using() {
        let mut templates = Templates::new(TWO);
        templates.keep(1, Rc::new("old"), TWO);
        templates.keep(2, Rc::new("two"), TWO);
        assert_eq!(templates.find(1, |kept| *kept == "new"), None);
        templates.keep(3, Rc::new("three"), TWO);
        assert_eq!(kept(&mut templates), [2, 3]);
        templates.forget(|kept| *kept == "two");
        assert_eq!(kept(&mut templates), [3]);
    }

    #[test]
    fn who_finds_it_gets_what_is_kept_no_copy() {
        let mut templates = Templates::new(TWO);
        let made = Rc::new("made");
        templates.keep(1, made.clone(), TWO);
        assert!(templates.find(1, |_| true).is_some_and(|found| Rc::ptr_eq(&found, &made)));
    }
}
