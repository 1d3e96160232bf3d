//! Caches of earlier prompts, on the host: a slot that is about to lose one puts it here.

use llama_diffusion::Token;

use super::Saved;

/// Copies of caches, the one used last at the end.
pub struct Library<S> {
    saved: Vec<S>,
    /// Maximum number of bytes.
    limit: usize,
}

impl<S: Saved> Library<S> {
    /// An empty library of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            saved: Vec::new(),
            limit,
        }
    }

    /// Whether it keeps anything at all.
    pub fn is_open(&self) -> bool {
        self.limit > 0
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.saved.iter().map(Saved::bytes).sum()
    }

    /// Adds a copy. Those that it continues are dropped, and so are the oldest ones beyond the limit.
    pub fn put(&mut self, saved: S) {
        if saved.bytes() > self.limit {
            return;
        }
        self.saved
            .retain(|old| !saved.tokens().starts_with(old.tokens()));
        self.saved.push(saved);
        while self.bytes() > self.limit {
            self.saved.remove(0);
        }
    }

    /// The copy with the longest beginning of a prompt, and how long that is.
    pub fn longest(&self, prompt: &[Token]) -> Option<(usize, usize)> {
        let common = |saved: &S| common_prefix(saved.tokens(), prompt);
        let all = self.saved.iter().map(common).enumerate();
        all.filter(|(_, common)| *common > 0)
            .max_by_key(|(_, common)| *common)
    }

    /// A copy, which counts as used now.
    pub fn get(&mut self, index: usize) -> Option<&S> {
        let saved = self.saved.remove(index);
        self.saved.push(saved);
        self.saved.last()
    }
}

/// How many tokens two sequences begin with in common.
pub fn common_prefix(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Saved for Vec<Token> {
        fn tokens(&self) -> &[Token] {
            self
        }

        fn bytes(&self) -> usize {
            self.len()
        }
    }

    #[test]
    fn the_oldest_copies_make_room() {
        let mut library = Library::new(6);
        library.put(vec![1, 2]);
        library.put(vec![3, 4]);
        library.put(vec![5, 6]);
        let (index, common) = library.longest(&[1, 2, 9]).unwrap();
        assert_eq!((library.get(index).unwrap(), common), (&vec![1, 2], 2));
        library.put(vec![7, 8]); // instead of [3, 4], which nobody has used since
        assert_eq!(library.longest(&[3, 4]), None);
        assert_eq!(library.longest(&[1, 5]).unwrap().1, 1);
        assert_eq!(library.bytes(), 6);
    }

    #[test]
    fn a_longer_copy_replaces_its_beginning() {
        let mut library = Library::new(6);
        library.put(vec![1, 2]);
        library.put(vec![1, 2, 3]);
        assert_eq!(library.bytes(), 3);
        library.put(vec![0; 7]);
        assert_eq!(library.bytes(), 3, "larger than the library");
    }
}
