# A NixOS module: WireGuard tunnels, each in a network namespace of its own, and services that are confined to them.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (builtins)
    attrNames
    elem
    match
    removeAttrs
    ;
  inherit (lib)
    concatMapStringsSep
    filterAttrs
    mkIf
    mkOption
    nameValuePair
    optional
    toList
    types
    ;

  cfg = config.my.wireguard;
  units = import ./units.nix {
    bin = "${cfg.package}/bin/";
    lib = "${config.systemd.package}/lib/systemd/";
  };

  # my.wireguard itself is the tunnel wg, the others are instances.
  tunnels = filterAttrs (_: tunnel: tunnel.enable) (cfg.tunnels // { wg = cfg; });
  unitOf = name: if name == "wg" then "wg" else "wg@${name}";

  # ---- Options

  # No value can hold what would end it in a configuration: a line break, a comma or a comment. wg-up checks the rest.
  matching = description: pattern: types.strMatching pattern // { inherit description; };
  address = matching "address or network with a prefix length" "[0-9A-Fa-f:.]+(/[0-9]+)?";
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

  setting =
    type: example: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit example description;
    };
  allNetworks = [
    "0.0.0.0/0"
    "::/0"
  ];
  tunnelOptions = {
    address.IPv4 = setting address "10.64.0.2/32" "IPv4 address of this end.";
    address.IPv6 = setting address "fd00::2/128" "IPv6 address of this end.";
    peer = setting publicKey "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=" "Public key of the peer.";
    endpoint = setting endpoint "vpn.example.com:51820" ''
      Where the peer is, as HOST:PORT or [IPV6]:PORT. A host name is looked up by the host, outside the tunnel.
    '';
    privateKey = setting externalFile "/root/wireguard.key" ''
      File with the private key, outside the Nix store. It is read when the tunnel starts, and never copied.
    '';
    presharedKeyFile = setting externalFile "/root/wireguard.psk" "File with the preshared key, like `privateKey`.";
    configFile = setting externalFile "/root/provider.conf" ''
      A wg-quick(8) file as a provider hands it out, outside the Nix store, in place of all the other settings. After an
      edit, `systemctl reload` of the tunnel's unit applies it: a rebuild does not see what is in the file.
    '';
    dns = mkOption {
      type = types.listOf (matching "name server or search domain" "[0-9A-Za-z:._-]+");
      default = [ ];
      example = [ "10.64.0.1" ];
      description = "Name servers and search domains of the confined services.";
    };
    allowedIPs = mkOption {
      type = types.listOf address;
      default = allNetworks;
      description = "Networks that are reached through the peer.";
    };
    mtu = setting (types.ints.between 68 65535) 1380 "MTU of the interface; by default, that of the way there less 80.";
    listenPort = setting types.port 51820 "UDP port in the host's network namespace; by default, any.";
    waitHandshake = setting (types.ints.between 1 3600) 30 ''
      Seconds that the tunnel's start waits for a handshake; without one it fails, and is tried again. By default, it does
      not wait.
    '';
    publish = mkOption {
      type = types.attrsOf types.port;
      default = { };
      example = {
        "127.0.0.1:9091" = 9091;
      };
      description = ''
        Ports of confined services, by the addresses of the host at which they are reached too. systemd listens there and
        passes on what comes: there is no link between the host and the namespace.
      '';
    };
    persistentKeepalive = setting (types.ints.between 0 65535) 25 "Seconds between keepalives; by default, none.";
  };

  # ---- From options to configurations and units

  configuration =
    tunnel:
    let
      line =
        key: value:
        optional (value != null && value != [ ]) "${key} = ${concatMapStringsSep ", " toString (toList value)}";
      given = builtins.filter (value: value != null);
    in
    concatMapStringsSep "" (text: "${text}\n") (
      [ "[Interface]" ]
      ++ line "PrivateKeyFile" tunnel.privateKey
      ++ line "Address" (given [
        tunnel.address.IPv4
        tunnel.address.IPv6
      ])
      ++ line "ListenPort" tunnel.listenPort
      ++ line "MTU" tunnel.mtu
      ++ line "DNS" tunnel.dns
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

  # Each instance has a unit file of its own: switch-to-configuration does not find the template of an instance that has
  # a dot or an @ in its name, and would not reload it.
  tunnelUnit =
    name: tunnel:
    let
      unit = if name == "wg" then units.services.wg else units.services."wg@";
    in
    nameValuePair (unitOf name) (
      unit
      // {
        wants = unit.wants ++ startedWith name;
        # Together: whatever changes, the package too, reloads the tunnel. A restart would stop all that is bound to it.
        reloadIfChanged = true;
        serviceConfig =
          unit.serviceConfig
          // (
            if tunnel.waitHandshake == null then
              { }
            else
              { Environment = "\"WG_UP_OPTIONS=--resolve-timeout=30 --wait-handshake=${toString tunnel.waitHandshake}\""; }
          );
        restartTriggers = [ (if tunnel.configFile != null then tunnel.configFile else configuration tunnel) ];
      }
    );

  # What is to run at all comes up with the tunnel, also after a first start that failed; what a timer or a socket is to
  # start does not. (A service's wantedBy could not depend on what else is in it, so this is not done there.)
  startedWith =
    tunnel:
    map (name: "${name}.service") (
      attrNames (
        filterAttrs (
          _: service:
          service.wireguardTunnel == tunnel && service.wantedBy ++ service.requiredBy ++ service.upheldBy != [ ]
        ) config.systemd.services
      )
    );

  # Settings are lists behind those of the unit itself: what takes something away, with ~, has to come last.
  confined =
    section: make: tunnel:
    let
      data = make {
        name = tunnel;
        unit = "${unitOf tunnel}.service";
      };
    in
    data // { ${section} = builtins.mapAttrs (_: value: lib.mkAfter (toList value)) data.${section}; };

  wireguardTunnel =
    settings:
    mkOption (
      {
        type = types.nullOr types.str;
        default = null;
        example = "wg";
      }
      // settings
    );

  # Units for what is published, by a function of one's name and data
  published =
    make: name: tunnel:
    lib.mapAttrs' (
      port: listen:
      nameValuePair "wgns-publish-${name}-${port}" (
        units.published {
          inherit name listen;
          unit = "${unitOf name}.service";
          inherit port;
        }
      ).${make}
    ) (builtins.groupBy (listen: toString tunnel.publish.${listen}) (attrNames tunnel.publish));
  allPublished =
    make: builtins.foldl' (all: name: all // published make name tunnels.${name}) { } (attrNames tunnels);

  # ---- What cannot be

  # What can be set beside configFile
  notInFile = [
    "configFile"
    "publish"
    "waitHandshake"
  ];

  whatIsSet =
    tunnel:
    attrNames (
      filterAttrs (_: value: value != null && value != [ ] && value != { }) (
        builtins.intersectAttrs tunnelOptions tunnel
        // lib.mapAttrs' (family: nameValuePair "address.${family}") tunnel.address
        // {
          address = null;
          allowedIPs = if tunnel.allowedIPs == allNetworks then null else tunnel.allowedIPs;
        }
      )
    );

  unless = message: assertion: { inherit assertion message; };
  each = assertions: set: builtins.concatLists (lib.mapAttrsToList assertions set);
  isOn =
    value:
    elem (toString value) [
      "1"
      "on"
      "true"
      "yes"
    ];

  nameAssertion =
    name:
    if name == "wg" then
      unless "my.wireguard.tunnels.wg: the tunnel wg is my.wireguard itself; set it there" false
    else
      unless
        ''
          my.wireguard.tunnels."${name}": not a name for an interface and a unit.
          Legal: 1 to 15 letters, digits, _ . - @ with no leading dash, but not ".", "..", "all", "default" or "lo"''
        (match "[A-Za-z0-9_.@][A-Za-z0-9_.@-]{0,14}" name != null && match "[.][.]?|all|default|lo" name == null);

  tunnelAssertions =
    name: tunnel:
    let
      place = if name == "wg" then "my.wireguard" else "my.wireguard.tunnels.\"${name}\"";
      others = builtins.filter (name: !(elem name notInFile)) (whatIsSet tunnel);
      needed =
        setting:
        unless "${place}: ${setting} is missing; set it, or configFile in place of all" (tunnel.${setting} != null);
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

  confinedAssertions = place: tunnel: settings: [
    (unless ''
      ${place}: wireguardTunnel = "${tunnel}" is none of the tunnels that are enabled: ${
        concatMapStringsSep ", " builtins.toJSON (attrNames tunnels)
      }.
      my.wireguard.enable enables "wg", my.wireguard.tunnels has the others'' (tunnels ? ${tunnel}))
    (unless "${place}: NetworkNamespacePath is set by wireguardTunnel; leave out one of the two" (
      settings.NetworkNamespacePath or null == [ "/run/netns/${tunnel}" ]
    ))
  ];

  serviceAssertions =
    name: service:
    let
      place = "systemd.services.\"${name}\"";
      settings = service.serviceConfig;
      tooEarly = lib.intersectLists service.before units.services.wg.after;
    in
    lib.optionals (service.wireguardTunnel != null) (
      confinedAssertions place service.wireguardTunnel settings
      ++ [
        (unless ''
          ${place}: wireguardTunnel makes systemd ignore PrivateNetwork and JoinsNamespaceOf.
          Leave them out; what another module sets, lib.mkForce false turns off''
          (!(service.unitConfig ? JoinsNamespaceOf || isOn settings.PrivateNetwork or false))
        )
        (unless ''
          ${place}: a service on the system bus answers the host, and has no bus when it is confined (it is in /run).
          Leave out wireguardTunnel, or Type = "dbus" and BusName''
          (!(settings.Type or "" == "dbus" || settings ? BusName))
        )
        (unless ''
          ${place}: it is ordered before ${toString tooEarly}, which its tunnel waits for.
          Leave out wireguardTunnel, or set before = lib.mkForce [ ]'' (tooEarly == [ ]))
      ]
    );

  socketAssertions =
    name: socket:
    let
      place = "systemd.sockets.\"${name}\"";
      settings = socket.socketConfig;
      started = lib.removeSuffix ".service" (
        settings.Service or (if isOn settings.Accept or false then "${name}@" else name)
      );
      tunnel = tunnelOfService started;
      shown = builtins.toJSON;
    in
    [
      (unless ''
        ${place}: wireguardTunnel = ${shown socket.wireguardTunnel}, but starts ${started}.service, which has ${shown tunnel}.
        Set both to the same'' (tunnel == socket.wireguardTunnel))
    ]
    ++ lib.optionals (socket.wireguardTunnel != null) (confinedAssertions place socket.wireguardTunnel settings);

  tunnelOfService = name: (config.systemd.services.${name} or { wireguardTunnel = null; }).wireguardTunnel;
in
{
  options.my.wireguard = tunnelOptions // {
    enable = lib.mkEnableOption "the WireGuard tunnel `wg`: `wg.service`, in the network namespace `wg`";
    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The package with netns-up, netns-down, wg-up and wg-down.";
    };
    tunnels = mkOption {
      type = types.attrsOf (
        types.submodule {
          options = tunnelOptions // {
            enable = mkOption {
              type = types.bool;
              default = true;
              description = "Whether there is this tunnel; `my.wireguard.enable` is for the tunnel `wg` alone.";
            };
          };
        }
      );
      default = { };
      description = "Further tunnels by name: `wg@NAME.service` each, in the network namespace NAME.";
    };
  };

  options.systemd.services = mkOption {
    type = types.attrsOf (
      types.submodule (
        { config, ... }:
        {
          options.wireguardTunnel = wireguardTunnel {
            description = ''
              The tunnel that this service is confined to: it runs in the tunnel's network namespace, and stops with it.
              Of /run it sees its own directories, the sockets of the journal and for notifications, and
              /run/current-system; more by `serviceConfig.BindReadOnlyPaths`.
            '';
          };
          config = mkIf (config.wireguardTunnel != null) (
            removeAttrs (confined "serviceConfig" units.confined config.wireguardTunnel) [ "wantedBy" ]
          );
        }
      )
    );
  };

  options.systemd.sockets = mkOption {
    type = types.attrsOf (
      types.submodule (
        { config, name, ... }:
        {
          options.wireguardTunnel = wireguardTunnel {
            # By name: what socketConfig says cannot be asked here, since it depends on this.
            default =
              let
                own = tunnelOfService name;
              in
              if own == null then tunnelOfService "${name}@" else own;
            defaultText = lib.literalMD "that of the service of the same name";
            description = "The tunnel in whose network namespace this socket listens, and with which it stops.";
          };
          config = mkIf (config.wireguardTunnel != null) (
            let
              socket = confined "socketConfig" units.confinedSocket config.wireguardTunnel;
            in
            # Forced: sockets.target would wait for the tunnel, which waits for sockets.target.
            socket // { wantedBy = lib.mkForce socket.wantedBy; }
          );
        }
      )
    );
  };

  config = lib.mkMerge [
    (mkIf (tunnels != { }) {
      systemd.services = lib.mapAttrs' tunnelUnit tunnels // {
        # Started again it would be another namespace, and all that is in this one would be stopped.
        "netns@" = units.services."netns@" // {
          restartIfChanged = false;
        };
        inherit (units.services) wgns-refresh;
      }
      // allPublished "service";
      systemd.sockets = allPublished "socket";
      systemd.timers = { inherit (units.timers) wgns-refresh; };
      environment.etc = lib.mapAttrs' (
        name: tunnel:
        nameValuePair "wireguard/${name}.conf" (
          if tunnel.configFile != null then { source = tunnel.configFile; } else { text = configuration tunnel; }
        )
      ) tunnels;
      environment.systemPackages = [ cfg.package ];
    })
    {
      assertions =
        map nameAssertion (attrNames cfg.tunnels)
        ++ each tunnelAssertions tunnels
        ++ each serviceAssertions config.systemd.services
        ++ each socketAssertions config.systemd.sockets;
      warnings = optional (!cfg.enable && whatIsSet cfg != [ ]) ''
        my.wireguard has settings (${toString (whatIsSet cfg)}), but there is no tunnel wg.
        Set my.wireguard.enable = true, or leave them out'';
    }
  ];
}
