"""Tests of the Nix files, by evaluating them: nothing is built, and nixpkgs is not needed."""
