//! Everpost.

fn main() {}
