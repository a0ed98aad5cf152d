# What NixOS writes for systemd, of the options in nixos.nix: keys sorted, lists as repeated keys.
with builtins;
let
  attributes = f: set: map (name: f name set.${name}) (attrNames set);
  shown = value: if isBool value then (if value then "true" else "false") else toString value;
  lines =
    settings:
    concatLists (
      attributes (
        key: value: map (item: "${key}=${shown item}") (if isList value then value else [ value ])
      ) (removeAttrs settings (filter (key: settings.${key} == null) (attrNames settings)))
    );
  section = name: settings: if lines settings == [ ] then [ ] else [ "[${name}]" ] ++ lines settings;
  # Lists that are one line
  joined =
    unit: keys:
    listToAttrs (
      concatLists (
        attributes (
          name: key:
          if unit.${name} == [ ] || unit.${name} == "" then
            [ ]
          else
            [
              {
                name = key;
                value = toString unit.${name};
              }
            ]
        ) keys
      )
    );
  hasPath = package: package ? path;
in
rec {
  text =
    kind: unit:
    concatStringsSep "\n" (
      section "Unit" (
        joined unit {
          after = "After";
          before = "Before";
          bindsTo = "BindsTo";
          description = "Description";
          wants = "Wants";
        }
        // unit.unitConfig
        // (
          if unit.restartTriggers == [ ] then
            { }
          else
            { X-Restart-Triggers = hashString "sha256" (toString unit.restartTriggers); }
        )
      )
      ++ (
        if kind == "socket" then
          section "Socket" unit.socketConfig
        else
          section "Service" (
            unit.serviceConfig
            // (if unit.reloadIfChanged then { X-ReloadIfChanged = true; } else { })
            // (if unit.restartIfChanged then { } else { X-RestartIfChanged = false; })
          )
      )
      ++ section "Install" (joined unit { wantedBy = "WantedBy"; })
    );

  # The files below /etc/systemd/system by name, and the units in each target's .wants/ there
  files =
    config:
    let
      packages = filter hasPath config.systemd.packages;
      packaged = listToAttrs (
        map (package: {
          name = replaceStrings [ "lib/systemd/system/" ] [ "" ] package.path;
          value = package.text;
        }) packages
      );
      written =
        kind:
        attributes (name: unit: {
          name =
            if packaged ? "${name}.${kind}" || unit.overrideStrategy == "asDropin" then
              "${name}.${kind}.d/overrides.conf"
            else
              "${name}.${kind}";
          value = text kind unit + "\n";
        }) config.systemd."${kind}s";
    in
    packaged // listToAttrs (written "service" ++ written "socket");
  wants =
    config:
    let
      wanted =
        kind:
        concatLists (
          attributes (
            name: unit: map (target: { ${target} = [ "${name}.${kind}" ]; }) unit.wantedBy
          ) config.systemd."${kind}s"
        );
      multiUser = config.systemd.targets.multi-user.wants or [ ];
    in
    zipAttrsWith (_: concatLists) (
      wanted "service" ++ wanted "socket" ++ [ { "multi-user.target" = multiUser; } ]
    );
}
