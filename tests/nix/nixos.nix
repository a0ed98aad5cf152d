# The options of NixOS that nix/module.nix reads and sets, of what little type they need here.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  list = mkOption {
    type = types.listOf types.raw;
    default = [ ];
  };
  flag = default: mkOption {
    type = types.bool;
    inherit default;
  };
  settings = mkOption {
    type = types.attrsOf types.raw;
    default = { };
  };
  units = options: mkOption {
    default = { };
    type = types.attrsOf (types.submodule {
      options = options // {
        description = mkOption {
          type = types.str;
          default = "";
        };
        unitConfig = settings;
        after = list;
        before = list;
        bindsTo = list;
        conflicts = list;
        requiredBy = list;
        overrideStrategy = mkOption {
          type = types.str;
          default = "asDropinIfExists";
        };
        restartTriggers = list;
        upheldBy = list;
        wantedBy = list;
        wants = list;
      };
    });
  };
in
{
  options = {
    assertions = list;
    warnings = list;
    boot.kernelModules = list;
    environment.systemPackages = list;
    networking.firewall.allowedTCPPorts = list;
    system.activationScripts = settings;
    environment.etc = mkOption {
      default = { };
      type = types.attrsOf (types.submodule {
        options.text = mkOption {
          type = types.nullOr types.str;
          default = null;
        };
        options.source = mkOption {
          type = types.path;
          default = "/made/of/text";
        };
      });
    };
    virtualisation.oci-containers.backend = mkOption {
      type = types.str;
      default = "podman";
    };
    virtualisation.oci-containers.containers = settings;
    systemd.services = units {
      serviceConfig = settings;
      confinement.enable = flag false;
      reloadIfChanged = flag false;
      restartIfChanged = flag true;
    };
    systemd.packages = list;
    systemd.package = mkOption {
      type = types.raw;
      default = "/systemd";
    };
    systemd.targets = units { };
    systemd.sockets = units { socketConfig = settings; };
  };
}
