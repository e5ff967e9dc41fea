//! Features of the frozen layers, kept by key.

use std::collections::HashMap;

/// Rows of features by key.
#[derive(Default)]
pub struct Features {
    /// Elements of a row.
    len: usize,
    /// The rows of each call that cached some.
    blocks: Vec<Vec<f32>>,
    /// Block and row of each key.
    places: HashMap<u64, (usize, usize)>,
}

impl Features {
    /// Room for rows of `len` elements.
    pub fn new(len: usize) -> Self {
        Self { len, ..Self::default() }
    }

    /// Keeps rows; one whose key is known takes the place of the old one.
    pub fn insert(&mut self, keys: &[u64], rows: &[f32]) {
        let block = self.blocks.len();
        let mut new = Vec::with_capacity(rows.len());
        for (&key, row) in keys.iter().zip(rows.chunks_exact(self.len)) {
            match self.places.get(&key) {
                Some(&(known, place)) => {
                    let block = if known == block { &mut new } else { &mut self.blocks[known] };
                    block[place * self.len..][..self.len].copy_from_slice(row);
                }
                None => {
                    self.places.insert(key, (block, new.len() / self.len));
                    new.extend_from_slice(row);
                }
            }
        }
        if !new.is_empty() {
            self.blocks.push(new);
        }
    }

    /// The first of some keys that has no row.
    pub fn missing(&self, keys: &[u64]) -> Option<u64> {
        keys.iter().copied().find(|key| !self.places.contains_key(key))
    }

    /// Copies the rows of some keys, none of which is missing.
    pub fn gather(&self, keys: &[u64], rows: &mut [f32]) {
        for (key, row) in keys.iter().zip(rows.chunks_exact_mut(self.len)) {
            let (block, place) = self.places[key];
            row.copy_from_slice(&self.blocks[block][place * self.len..][..self.len]);
        }
    }

    /// Frees all rows.
    pub fn clear(&mut self) {
        *self = Self::new(self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insert_keeps_the_last_row_of_each_key() {
        let mut features = Features::new(2);
        features.insert(&[7, 8, 7], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        features.insert(&[9, 8], &[7.0, 8.0, 9.0, 10.0]);
        assert_eq!(features.missing(&[7, 8, 9]), None);
        assert_eq!(features.missing(&[7, 5, 6]), Some(5));
        let mut rows = [0.0; 6];
        features.gather(&[8, 9, 7], &mut rows);
        assert_eq!(rows, [9.0, 10.0, 7.0, 8.0, 5.0, 6.0]);
        features.clear();
        assert_eq!(features.missing(&[7]), Some(7));
    }
}
