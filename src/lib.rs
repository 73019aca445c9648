//! Everpost.

pub mod cli;
