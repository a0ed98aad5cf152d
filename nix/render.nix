# The text of units as NixOS writes it: keys sorted within a section, units' names on one line, lists as repeated keys.
#
#     nix-instantiate --eval --strict --json nix/render.nix -A files
let
  inherit (builtins)
    attrNames
    concatMap
    concatStringsSep
    filter
    isBool
    isList
    listToAttrs
    ;

  units = import ./units.nix { };

  # What stands in [Unit] and [Install], by its name in systemd.services
  unitKeys = {
    after = "After";
    before = "Before";
    bindsTo = "BindsTo";
    conflicts = "Conflicts";
    description = "Description";
    wants = "Wants";
  };
  installKeys.wantedBy = "WantedBy";

  named =
    keys: data:
    listToAttrs (
      map (name: {
        name = keys.${name};
        value = toString data.${name};
      }) (filter (name: data ? ${name}) (attrNames keys))
    );
  shown = value: if isBool value then (if value then "true" else "false") else toString value;
  lines =
    settings:
    concatMap (
      key:
      map (value: "${key}=${shown value}\n") (
        if isList settings.${key} then settings.${key} else [ settings.${key} ]
      )
    ) (attrNames settings);
  section =
    name: settings: if settings == { } then [ ] else [ (concatStringsSep "" ([ "[${name}]\n" ] ++ lines settings)) ];
in
rec {
  text =
    data:
    concatStringsSep "\n" (
      section "Unit" (named unitKeys data // data.unitConfig or { })
      ++ section "Service" (data.serviceConfig or { })
      ++ section "Socket" (data.socketConfig or { })
      ++ section "Timer" (data.timerConfig or { })
      ++ section "Install" (named installKeys data)
    );

  # The files that are made from the units, by their path in the project
  files =
    let
      from = content: "# Made from nix/units.nix, which has the reasons.\n" + content;
      confined = {
        name = "NAME";
        unit = "wg@NAME.service";
      };
      # A drop-in can't be wanted by anything: `systemctl add-wants wg@NAME.service UNIT`
      published = units.published (
        confined
        // {
          listen = "127.0.0.1:9091";
          port = 9091;
        }
      );
      dropin = data: from (text (builtins.removeAttrs data [ "wantedBy" ]));
    in
    listToAttrs (
      concatMap
        (
          kind:
          map (name: {
            name = "systemd/${name}.${kind}";
            value = from (text units."${kind}s".${name});
          }) (attrNames units."${kind}s")
        )
        [
          "service"
          "timer"
        ]
    )
    // {
      "wgns_helpers/confined-service.conf" = dropin (units.confined confined);
      "wgns_helpers/confined-socket.conf" = dropin (units.confinedSocket confined);
      "systemd/examples/publish.service" = from (text published.service);
      "systemd/examples/publish.socket" = from (text published.socket);
    };
}
