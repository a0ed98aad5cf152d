{
  description = "Confine a systemd service to a WireGuard tunnel";

  # `nix flake lock` writes flake.lock, which says at which commit.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      forEach =
        make:
        nixpkgs.lib.genAttrs [
          "x86_64-linux"
          "aarch64-linux"
        ] (system: make nixpkgs.legacyPackages.${system});
    in
    {
      packages = forEach (pkgs: rec {
        wgns-helpers = pkgs.callPackage ./nix/package.nix { };
        default = wgns-helpers;
      });

      nixosModules.default = ./nix/module.nix;

      overlays.default = final: _: { wgns-helpers = final.callPackage ./nix/package.nix { }; };

      # The package with its tests, and virtual machines
      checks = forEach (
        pkgs:
        let
          inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) wgns-helpers;
        in
        { inherit wgns-helpers; } // wgns-helpers.tests
      );

      formatter = forEach (pkgs: pkgs.nixfmt-tree);
    };
}
