# A NixOS module: WireGuard tunnels, each in a network namespace of its own, and services that are confined to them.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (builtins) any attrNames attrValues concatMap elem filter head match toJSON;
  inherit (lib) concatMapStringsSep filterAttrs mapAttrsToList mkIf nameValuePair optional types;

  cfg = config.my.wireguard;

  # my.wireguard itself is the tunnel wg, the others are instances.
  tunnels = filterAttrs (_: tunnel: tunnel.enable) (cfg.tunnels // { wg = cfg; });
  unitOf = name: if name == "wg" then "wg" else "wg@${name}";

  # ---- Options

  # No value can hold what would end it in a configuration: a line break, a comma or a comment. wg-up checks the rest.
  matching = description: pattern: types.strMatching pattern // { inherit description; };
  address = matching "address or network with a prefix length" "[0-9A-Fa-f:.]+(/[0-9]+)?";
  ipv4 = matching "IPv4 address with a prefix length" "[0-9.]+(/[0-9]+)?";
  ipv6 = matching "IPv6 address with a prefix length" "[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(/[0-9]+)?";
  publicKey = matching "public key" "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=";
  endpoint = matching "HOST:PORT" "[^#,[:space:][:cntrl:]]+:[0-9]+";
  # A path literal means the name that it is: it is not copied into the store, which everybody can read.
  externalFile =
    types.coercedTo types.path toString (
      types.addCheck types.externalPath (file: match "[^#,*[:space:][:cntrl:]]+" file != null)
    )
    // {
      description = "absolute path outside the Nix store, without blanks, #, comma and *";
    };

  nameServer = matching "name server or search domain" "[0-9A-Za-z:._-]+";
  portRange =
    matching "PORT or FIRST-LAST, with /tcp or /udp, or all"
      "[0-9]+(-[0-9]+)?(/(tcp|udp))?|all";
  reached =
    matching "HOST:PORT or [IPV6]:PORT"
      "(\\[[0-9A-Fa-f:.]+]|[0-9A-Za-z._-]+):[0-9]+";
  command = matching "command in one line, without single quotes" "[^'[:cntrl:]]+";

  option =
    type: default: example: description:
    lib.mkOption { inherit type default example description; };
  setting = type: option (types.nullOr type) null;
  allNetworks = [
    "0.0.0.0/0"
    "::/0"
  ];
  tunnelOptions = {
    address.IPv4 = setting ipv4 "10.64.0.2/32" "IPv4 address of this end.";
    address.IPv6 = setting ipv6 "fd00::2/128" "IPv6 address of this end.";
    peer = setting publicKey "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=" ''
      Public key of the peer.
    '';
    endpoint = setting endpoint "vpn.example.com:51820" ''
      Where the peer is, as HOST:PORT or [IPV6]:PORT. A host name is looked up by the host, outside the tunnel.
    '';
    privateKey = setting externalFile "/root/wireguard.key" ''
      File with the private key, outside the Nix store. It is read when the tunnel starts, and never copied.
    '';
    presharedKeyFile = setting externalFile "/root/wireguard.psk" ''
      File with the preshared key, like `privateKey`.
    '';
    configFile = setting externalFile "/root/provider.conf" ''
      A wg-quick(8) file as a provider hands it out, outside the Nix store, in place of all the other settings. After an
      edit, `systemctl reload` of the tunnel's unit applies it: a rebuild does not see what is in the file.
    '';
    dns = option (types.listOf nameServer) [ ] [ "10.64.0.1" ] ''
      Name servers and search domains of the confined services.
    '';
    allowedIPs = option (types.listOf address) allNetworks [ "10.0.0.0/8" ] ''
      Networks that are reached through the peer.
    '';
    mtu = setting (types.ints.between 68 65535) 1380 ''
      MTU of the interface; by default, that of the way there less 80.
    '';
    listenPort = setting types.port 51820 ''
      UDP port in the host's network namespace; by default, any.
    '';
    openPorts = option (types.listOf portRange) [ ] [ "6881-6889/udp" ] ''
      Ports that the far side of the tunnel may reach, without a protocol by both.
    '';
    waitHandshake = setting (types.ints.between 1 3600) 30 ''
      Seconds that the tunnel's start waits for a handshake; without one it fails, and is tried again. By default, it does
      not wait.
    '';
    publish = option (types.attrsOf types.port) { } { "127.0.0.1:9091" = 9091; } ''
      Ports of confined services, by the addresses of the host at which they are reached too. systemd listens there and
      passes on what comes: there is no link between the host and the namespace.
    '';
    openFirewall = lib.mkEnableOption "opening of the ports of `publish` in the host's firewall";
    reach = option (types.attrsOf reached) { } { "8989" = "127.0.0.1:8989"; } ''
      Ports of 127.0.0.1 that confined services reach, and where the host connects them to. Each is a hole to that one
      place, for everything in the tunnel's namespace.
    '';
    forwardPort.enable = lib.mkEnableOption ''
      the port that the provider forwards by NAT-PMP (`wgns forward`)'';
    forwardPort.command = setting command "/run/current-system/sw/bin/program --port" ''
      Command that gets a forwarded port as its last argument when it changes, without a shell.
    '';
    persistentKeepalive = setting (types.ints.between 0 65535) 25 ''
      Seconds between keepalives; by default, none.
    '';
  };

  # ---- From options to configurations and units

  configuration =
    tunnel:
    let
      line =
        key: value:
        let
          given = filter (item: item != null) (lib.toList value);
        in
        optional (given != [ ]) "${key} = ${concatMapStringsSep ", " toString given}";
    in
    lib.concatLines (
      [ "[Interface]" ]
      ++ line "PrivateKeyFile" tunnel.privateKey
      ++ line "Address" (attrValues tunnel.address)
      ++ line "ListenPort" tunnel.listenPort
      ++ line "MTU" tunnel.mtu
      ++ line "DNS" tunnel.dns
      ++ line "OpenPorts" tunnel.openPorts
      ++ [
        ""
        "[Peer]"
      ]
      ++ line "PublicKey" tunnel.peer
      ++ line "PresharedKeyFile" tunnel.presharedKeyFile
      ++ line "AllowedIPs" tunnel.allowedIPs
      ++ line "Endpoint" tunnel.endpoint
      ++ line "PersistentKeepalive" tunnel.persistentKeepalive
    );

  source =
    tunnel:
    if tunnel.configFile != null then
      { source = tunnel.configFile; }
    else
      { text = configuration tunnel; };

  # A package with the file `path` for systemd: `source`, with the tunnel's name and the paths of programs in it.
  systemdFile =
    tunnel: path: source: more:
    let
      values = more // {
        NAME = tunnel;
        "wg@NAME" = unitOf tunnel;
        "=wg-down" = "=${cfg.package}/bin/wg-down";
        "=wg-up" = "=${cfg.package}/bin/wg-up";
        # Paths that stay the same: a new package restarts no confined service.
        "/usr/bin/env" = "/run/current-system/sw/bin/env";
        "wgns check NAME" = "/run/current-system/sw/bin/wgns check ${tunnel}";
        "/usr/lib/systemd" = "${config.systemd.package}/lib/systemd";
      };
    in
    pkgs.writeTextDir "lib/systemd/system/${path}" (
      builtins.replaceStrings (attrNames values) (attrValues values) (builtins.readFile source)
    );

  # systemd reads wireguard.conf after NixOS's overrides.conf: what takes something away, with ~, has to come last.
  dropIns =
    kind:
    each (
      name:
      { wireguardTunnel, ... }@unit:
      optional (wireguardTunnel != null) (
        systemdFile wireguardTunnel "${name}.${kind}.d/wireguard.conf"
          (../wgns_helpers + "/confined-${kind}.conf")
          { "[Service]" = "[Service]${withoutSockets unit.serviceConfig or { }}"; }
      )
    ) config.systemd."${kind}s";

  # By these the host would look up names (SOCKETS in wgns_helpers/check.py, but for the same below /var/run)
  sockets = [
    "/run/nscd/socket"
    "/run/systemd/resolve/io.systemd.Resolve"
    "/run/systemd/resolve/io.systemd.Resolve.Monitor"
    "/run/dbus/system_bus_socket"
    "/run/avahi-daemon/socket"
  ];
  # The words of a setting that is a list
  words =
    settings: key:
    filter (word: word != "") (
      concatMap (value: lib.splitString " " (toString value)) (lib.toList settings.${key} or [ ])
    );
  # The path in a setting, with a slash at its end, without prefixes, and below /run if by /var/run
  pathIn =
    word:
    let
      path = head (match "[-+]*([^:]*).*" (builtins.replaceStrings [ "%t" ] [ "/run" ] word));
      folder = "${lib.removeSuffix "/" path}/";
    in
    if lib.hasPrefix "/var/run/" folder then lib.removePrefix "/var" folder else folder;
  bindKeys = [
    "BindPaths"
    "BindReadOnlyPaths"
  ];
  showsSocket = word: any (socket: lib.hasPrefix (pathIn word) "${socket}/") sockets;

  # The unit's binds but for those that show one of these sockets: in place of our empty /run, systemd would mount them.
  withoutSockets =
    settings:
    let
      lines = key: map (word: { inherit key word; }) (words settings key);
      parts = builtins.partition (bind: showsSocket bind.word) (concatMap lines bindKeys);
    in
    lib.optionalString (parts.right != [ ]) ''

      # Without ${toString (map (bind: bind.word) parts.right)}, which shows sockets of the host
      BindPaths=
      ${concatMapStringsSep "\n" (bind: "${bind.key}=${bind.word}") parts.wrong}'';

  # Both units of a port that leads through, and what starts with the tunnel. With other addresses they are other units:
  # a rebuild leaves a changed socket alone.
  door =
    name: verb: port: places: values:
    let
      digest = builtins.substring 0 8 (builtins.hashString "sha256" places);
      unit = kind: "wgns-${verb}-${name}-${port}-${digest}.${kind}";
      file = kind: systemdFile name (unit kind) (../wgns_helpers + "/${verb}.${kind}") values;
    in
    {
      unit = unit "socket";
      files = map file [
        "service"
        "socket"
      ];
    };
  doors =
    name: tunnel:
    mapAttrsToList (
      port: listen:
      door name "publish" port (toString listen) {
        "HOST:PORT" = "127.0.0.1:${port}";
        TARGET = "127.0.0.1:${port}";
        "ListenStream=LISTEN" = concatMapStringsSep "\n" (to: "ListenStream=${to}") listen;
        # A port without an address is that of all addresses, IPv4 too
        "BindIPv6Only=ipv6-only" = "BindIPv6Only=default";
      }
    ) (builtins.groupBy (listen: toString tunnel.publish.${listen}) (attrNames tunnel.publish))
    ++ mapAttrsToList (
      port: target:
      let
        parts = match "\\[?([^]]+)]?:([0-9]+)" target;
        host = head parts;
        # systemd limits addresses, and not names
        limit = lib.optionalString (match "[0-9.]+|.*:.*" host != null);
      in
      door name "reach" port target {
        " HOST:PORT" = " ${concatMapStringsSep ":" toString parts}";
        TARGET = target;
        LISTEN = "127.0.0.1:${port}";
        "IPAddressAllow=HOST" = limit "IPAddressAllow=${host}";
        "IPAddressDeny=any" = limit "IPAddressDeny=any";
      }
    ) tunnel.reach
    ++ optional tunnel.forwardPort.enable rec {
      inherit (tunnel.forwardPort) command;
      unit = "wgns-forward@${name}.service";
      files = [
        (systemdFile name unit (../systemd + "/wgns-forward@.service") {
          "wg@%i" = unitOf name;
          "=wgns forward" = "=${cfg.package}/bin/wgns forward";
          "Environment=WGNS_FORWARD_OPTIONS=" = "Environment=\"WGNS_FORWARD_OPTIONS=${
            lib.optionalString (command != null) "--exec='${command}'"
          }\"";
        })
      ];
    };
  doorUnits = name: tunnel: map (door: door.unit) (doors name tunnel);
  doorFiles = name: tunnel: concatMap (door: door.files) (doors name tunnel);

  # switch-to-configuration does not find the template of an instance that has a dot or an @ in its name, and would not
  # reload the tunnel: such an instance gets a file of its own.
  untraced =
    name: _:
    optional (match ".*[.@].*" name != null) (
      systemdFile name "wg@${name}.service" (../systemd + "/wg@.service") { }
    );

  tunnelUnit =
    name: tunnel:
    nameValuePair (unitOf name) {
      overrideStrategy = "asDropin";
      wantedBy = [ "multi-user.target" ];
      # Together: whatever changes, the package too, reloads the tunnel. A restart would stop all that is bound to it.
      reloadIfChanged = true;
      restartTriggers = attrValues (source tunnel);
      serviceConfig = mkIf (tunnel.waitHandshake != null) {
        Environment = "\"WG_UP_OPTIONS=--resolve-timeout=30 --wait-handshake=${toString tunnel.waitHandshake}\"";
      };
    };

  # The unit by whose Wants= the services of a tunnel start at each of its tries. wantedBy of the services would do the
  # same, but startedWith reads that option, and so cannot define it.
  confinedUnit =
    name: tunnel:
    nameValuePair "wg-confined@${name}" {
      overrideStrategy = "asDropin";
      wants = startedWith name ++ doorUnits name tunnel;
    };

  # With the tunnel starts each of its services that something else wants or requires, also after a first start of the
  # tunnel that failed. What a timer or a socket starts is left to those.
  startedWith =
    tunnel:
    each (
      name: service:
      optional (
        service.wireguardTunnel == tunnel
        && service.wantedBy ++ service.requiredBy ++ service.upheldBy != [ ]
      ) "${name}.service"
    ) config.systemd.services
    ++ each (
      name: socket:
      optional (socket.wireguardTunnel == tunnel && !isTemplate name) "${name}.socket"
    ) config.systemd.sockets;

  # ---- What cannot be

  # What can be set beside configFile
  besidesFile = "configFile|forwardPort.*|openFirewall|publish|reach|waitHandshake";
  # By their whole names
  flat =
    set:
    removeAttrs set [
      "address"
      "forwardPort"
    ]
    // lib.mapAttrs' (name: nameValuePair "address.${name}") set.address
    // lib.mapAttrs' (name: nameValuePair "forwardPort.${name}") set.forwardPort;
  whatIsSet =
    tunnel:
    let
      differs = name: option: (flat tunnel).${name} != option.default;
    in
    attrNames (filterAttrs differs (flat tunnelOptions));

  unless = message: assertion: { inherit assertion message; };
  each = assertions: set: builtins.concatLists (mapAttrsToList assertions set);
  isTemplate = name: match ".*@" name != null;
  isOn = value: match "1|on|true|yes" (toString value) != null;

  nameAssertion =
    name:
    if name == "wg" then
      unless "my.wireguard.tunnels.wg: the tunnel wg is my.wireguard itself; set it there" false
    else
      unless
        ''
          my.wireguard.tunnels."${name}": not a name for an interface and a unit.
          Legal: 1 to 15 letters, digits, _ . - @ with no leading dash, but not ".", "..", "all", "default" or "lo"''
        (
          match "[A-Za-z0-9_.@][A-Za-z0-9_.@-]{0,14}" name != null
          && match "[.][.]?|all|default|lo" name == null
        );

  tunnelAssertions =
    name: tunnel:
    let
      place = if name == "wg" then "my.wireguard" else "my.wireguard.tunnels.\"${name}\"";
      others = filter (name: match besidesFile name == null) (whatIsSet tunnel);
      needed =
        setting:
        unless "${place}: ${setting} is missing; set it, or configFile in place of all" (
          tunnel.${setting} != null
        );
    in
    if tunnel.configFile != null then
      [
        (unless ''
          ${place}: configFile is in place of all other settings, but set are: ${toString others}.
          Write them in ${tunnel.configFile}, or leave configFile out'' (others == [ ]))
      ]
    else
      map needed [
        "privateKey"
        "peer"
        "endpoint"
      ]
      ++ [
        (unless "${place}: there is no address; set address.IPv4, address.IPv6 or both" (
          tunnel.address.IPv4 != null || tunnel.address.IPv6 != null
        ))
      ];

  confinedAssertions =
    place: unit: settings:
    let
      clashing =
        optional (words settings "NetworkNamespacePath" != [ ]) "NetworkNamespacePath"
        ++ optional (isOn settings.PrivateNetwork or false) "PrivateNetwork"
        ++ optional (words unit.unitConfig "JoinsNamespaceOf" != [ ]) "JoinsNamespaceOf";
    in
    [
      (unless ''
        ${place}: wireguardTunnel = "${unit.wireguardTunnel}" is none of the tunnels that are enabled: ${
          concatMapStringsSep ", " toJSON (attrNames tunnels)
        }.
        my.wireguard.enable enables "wg", my.wireguard.tunnels has the others'' (tunnels ? ${unit.wireguardTunnel}))
      (unless ''
        ${place}: wireguardTunnel sets the network namespace, and so does: ${toString clashing}.
        Leave that out; where another module sets PrivateNetwork, use lib.mkForce false'' (clashing == [ ]))
    ];

  # The values that several tunnels have, of what only one can have
  twice =
    values:
    attrNames (
      filterAttrs (_: same: builtins.tail same != [ ]) (builtins.groupBy toString (each values tunnels))
    );
  allTunnelsAssertions = [
    (unless ''
      my.wireguard: several tunnels have the listenPort ${toString (twice listenPorts)}.
      Leave it out, or give each its own'' (twice listenPorts == [ ]))
    (unless ''
      my.wireguard: several tunnels publish ${toString (twice published)}.
      Give each its own address or port'' (twice published == [ ]))
    (unless ''
      my.wireguard: publish has what is no address with a port: ${toString noPlaces}.
      Legal: PORT, ADDRESS:PORT or [IPV6]:PORT'' (noPlaces == [ ]))
  ];
  listenPorts = _: tunnel: optional (tunnel.listenPort != null) tunnel.listenPort;
  published = _: tunnel: attrNames tunnel.publish;
  portOf = listen: lib.toInt (lib.last (lib.splitString ":" listen));
  opened =
    name: tunnel:
    lib.optionals tunnel.openFirewall (
      map portOf (filter isPlace (published name tunnel))
    );
  isPlace = listen: match "([0-9.]+:|\\[[0-9A-Fa-f:.]+]:)?[0-9]+" listen != null;
  noPlaces = filter (listen: !isPlace listen) (each published tunnels);

  # Whose services find no names
  nameless = filter (
    name:
    tunnels.${name}.configFile == null
    && tunnels.${name}.dns == [ ]
    && any (service: service.wireguardTunnel == name) (attrValues config.systemd.services)
  ) (attrNames tunnels);

  serviceAssertions =
    name: service:
    let
      place = "systemd.services.\"${name}\"";
      settings = service.serviceConfig;
      kept =
        optional (!service.restartIfChanged or true) "restartIfChanged = false"
        ++ optional (service.reloadIfChanged or false) "reloadIfChanged = true";
      engines = config.virtualisation.oci-containers or { };
      containers = map (name: "${engines.backend}-${name}") (attrNames engines.containers or { });
      visible =
        map (folder: "/run/${folder}/") (words settings "RuntimeDirectory")
        ++ map pathIn (concatMap (words settings) bindKeys);
      hidden = filter (
        word:
        lib.hasPrefix "/run/" (pathIn word)
        && !(lib.hasPrefix "-" word || any (folder: lib.hasPrefix folder (pathIn word)) visible)
      ) (words settings "ReadWritePaths" ++ words settings "ReadOnlyPaths");
    in
    lib.optionals (service.wireguardTunnel != null) (
      confinedAssertions place service settings
      ++ [
        (unless ''
          ${place}: a service on the system bus answers the host, and has no bus when it is confined (it is in /run).
          Leave out wireguardTunnel, or Type = "dbus" and BusName''
          (!(settings.Type or "" == "dbus" || words settings "BusName" != [ ]))
        )
        (unless ''
          ${place}: a rebuild that confines it would leave it running in the host's network (${toString kept}).
          Leave out wireguardTunnel, or use lib.mkForce'' (kept == [ ]))
        (unless ''
          ${place}: its engine would put a bridge into the tunnel's namespace, past which no other service starts.
          Leave out wireguardTunnel; give the container --network=ns:/run/netns/${service.wireguardTunnel}, and the service bindsTo and after = [ "${unitOf service.wireguardTunnel}.service" ]''
          (!(elem name containers))
        )
        (unless ''
          ${place}: confinement makes a root without the check, wgns.
          Leave out wireguardTunnel or confinement.enable'' (!(service.confinement.enable or false)))
        (unless ''
          ${place}: the host's /run is hidden from it, and it needs ${toString hidden} there.
          Let it in: serviceConfig.BindPaths = [ ${toString (map toJSON hidden)} ]'' (hidden == [ ]))
        (unless ''
          ${place}: it is ordered before network-online.target, which its tunnel waits for.
          Leave out wireguardTunnel, or set before = lib.mkForce [ ]'' (!(elem "network-online.target" service.before)))
      ]
    );

  socketAssertions =
    name: socket:
    let
      place = "systemd.sockets.\"${name}\"";
      started = startedBy name socket.socketConfig;
      tunnel = tunnelOf started;
    in
    [
      (unless ''
        ${place}: wireguardTunnel = ${toJSON socket.wireguardTunnel}, but starts ${started}.service, which has ${toJSON tunnel}.
        Set both to the same'' (tunnel == socket.wireguardTunnel))
    ]
    ++ lib.optionals (socket.wireguardTunnel != null) (
      confinedAssertions place socket socket.socketConfig
    );

  # A rebuild leaves a socket whose service does not run as it was, in the host. Stopped when the new system is
  # activated, it is started again in the tunnel, by what wants it. At boot, there is no systemd yet.
  moved =
    name:
    { wireguardTunnel, ... }:
    let
      systemctl = "${config.systemd.package}/bin/systemctl";
    in
    optional (wireguardTunnel != null && !isTemplate name) ''
      if [ -d /run/systemd/system ]; then
        ${systemctl} show --property=NetworkNamespacePath '${name}.socket' |
          grep --quiet --line-regexp --fixed-strings 'NetworkNamespacePath=/run/netns/${wireguardTunnel}' ||
          ${systemctl} stop '${name}.socket'
      fi
    '';

  # The service that a socket starts, without its suffix, and the tunnel of a service
  startedBy =
    name: settings:
    let
      lists = _: service: elem "${name}.socket" (words service.serviceConfig "Sockets");
      listing = attrNames (filterAttrs lists config.systemd.services);
    in
    lib.removeSuffix ".service" (
      settings.Service
        or (if isOn settings.Accept or false then "${name}@" else head (listing ++ [ name ]))
    );
  tunnelOf = service: config.systemd.services.${service}.wireguardTunnel or null;
in
{
  options.my.wireguard = tunnelOptions // {
    enable = lib.mkEnableOption ''
      the WireGuard tunnel `wg`: `wg.service`, in the network namespace `wg`'';
    package = lib.mkOption {
      type = types.package;
      default = pkgs.wgns-helpers or (pkgs.callPackage ./package.nix { });
      defaultText = lib.literalExpression "pkgs.wgns-helpers or (pkgs.callPackage ./package.nix { })";
      description = "The package with netns-up, netns-down, wg-up and wg-down.";
    };
    tunnels = lib.mkOption {
      type = types.attrsOf (
        types.submodule {
          options = tunnelOptions // {
            enable = option types.bool true false ''
              Whether there is this tunnel; `my.wireguard.enable` is for the tunnel `wg` alone.
            '';
          };
        }
      );
      default = { };
      description = "Further tunnels by name: `wg@NAME.service` each, in the network namespace NAME.";
    };
  };

  options.systemd.services = lib.mkOption {
    type = types.attrsOf (
      types.submodule {
        options.wireguardTunnel = setting types.str "wg" ''
          The tunnel that this service is confined to: it runs in the tunnel's network namespace, and stops with it.
          Of /run it sees its own directories, the sockets of the journal and for notifications, and
          /run/current-system; more by `serviceConfig.BindReadOnlyPaths`.
        '';
      }
    );
  };

  options.systemd.sockets = lib.mkOption {
    type = types.attrsOf (
      types.submodule (
        { config, name, ... }:
        {
          options.wireguardTunnel =
            setting types.str "wg" ''
              The tunnel in whose network namespace this socket listens, and with which it stops.
            ''
            // {
              default = tunnelOf (startedBy name config.socketConfig);
              defaultText = lib.literalMD "that of the service that the socket starts";
            };
        }
      )
    );
  };

  config = lib.mkMerge [
    (mkIf (tunnels != { }) {
      # Where modules are locked after boot, wg-up finds what it needs.
      boot.kernelModules = [
        "wireguard"
        "nf_tables"
        "nft_ct"
      ];
      systemd.packages = [ cfg.package ] ++ each untraced tunnels ++ each doorFiles tunnels;
      # A rebuild starts a new one by this target, whose wants it goes through.
      systemd.targets.multi-user.wants = each doorUnits tunnels;
      systemd.services = lib.mapAttrs' tunnelUnit tunnels // lib.mapAttrs' confinedUnit tunnels // {
        # Started again it would be another namespace, and all that is in this one would be stopped.
        "netns@" = {
          overrideStrategy = "asDropin";
          restartIfChanged = false;
        };
      };
      environment.etc = lib.mapAttrs' (
        name: tunnel:
        nameValuePair "wireguard/${name}.conf" (source tunnel)
      ) tunnels;
      environment.systemPackages = [ cfg.package ];
      networking.firewall.allowedTCPPorts = each opened tunnels;
    })
    {
      systemd.packages = dropIns "service" ++ dropIns "socket";
      system.activationScripts.wgns = lib.concatStrings (each moved config.systemd.sockets);
      assertions =
        map nameAssertion (attrNames cfg.tunnels)
        ++ each tunnelAssertions tunnels
        ++ allTunnelsAssertions
        ++ each serviceAssertions config.systemd.services
        ++ each socketAssertions config.systemd.sockets;
      warnings =
        map (name: ''
          my.wireguard: the services of the tunnel ${name} look up no names, since it has no dns.
          Set dns to the provider's name servers'') nameless
        ++ optional (!cfg.enable && whatIsSet cfg != [ ]) ''
        my.wireguard has settings (${toString (whatIsSet cfg)}), but there is no tunnel wg.
        Set my.wireguard.enable = true, or leave them out'';
    }
  ];
}
