# What nix/module.nix makes of options: for each case what is got and what is expected, by our own small module system,
# or by NixOS where `nixpkgs` is given.
{
  nixpkgs ? null,
}:
let
  inherit (builtins)
    any
    attrNames
    concatStringsSep
    deepSeq
    elemAt
    filter
    genList
    groupBy
    head
    isList
    isString
    length
    listToAttrs
    mapAttrs
    match
    readFile
    replaceStrings
    split
    tryEval
    ;

  inherit (import ./units.nix) text;

  # ---- the two systems

  package = {
    type = "derivation";
    name = "wgns-helpers";
    outPath = "/nix/store/00000000000000000000000000000000-wgns-helpers";
  };
  common.my.wireguard.package = package;
  # What it makes says where and what it is.
  writeTextDir = path: text: { inherit path text; };

  evaluate =
    if nixpkgs == null then
      module:
      (import ./modules.nix).evalModules { pkgs = { inherit writeTextDir; }; } [
        ./nixos.nix
        ../../nix/module.nix
        common
        module
      ]
    else
      module:
      (import (nixpkgs + "/nixos/lib/eval-config.nix") {
        system = "x86_64-linux";
        modules = [
          ../../nix/module.nix
          common
          module
          {
            boot.loader.grub.enable = false;
            fileSystems."/" = {
              device = "/dev/vda";
              fsType = "ext4";
            };
            system.stateVersion = "25.11";
            nixpkgs.overlays = [
              (_: former: { writeTextDir = path: text: former.writeTextDir path text // writeTextDir path text; })
            ];
          }
        ];
      }).config;

  # ---- what is looked at

  keep =
    wanted: set:
    listToAttrs (
      map (name: {
        inherit name;
        value = set.${name};
      }) (filter wanted (attrNames set))
    );
  # A unit's text without comments, blank lines and empty sections, and without what NixOS adds: the environment, and
  # notes to itself
  plain =
    written:
    let
      lines = filter (
        line: isString line && match "|#.*|Environment=\"(LOCALE_ARCHIVE|PATH|TZDIR)=.*|X-.*" line == null
      ) (split "\n" written);
      isHeader = line: match "\\[.*]" line != null;
      says = at: !(isHeader (elemAt lines at)) || at + 1 < length lines && !(isHeader (elemAt lines (at + 1)));
    in
    concatStringsSep "\n" (map (elemAt lines) (filter says (genList (at: at) (length lines))));

  look =
    module:
    let
      config = evaluate module;
      cfg = config.my.wireguard;
      services = keep (
        name: match "netns@|wg|wg(-confined)?@.*" name != null || module.systemd.services or { } ? ${name}
      ) config.systemd.services;
      sockets = keep (name: module.systemd.sockets or { } ? ${name}) config.systemd.sockets;
      unitText =
        kind: name: unit:
        plain (if nixpkgs == null then text kind unit else config.systemd.units."${name}.${kind}".text);
      packages = filter (p: p ? path && match "lib/systemd/system/.*" p.path != null) config.systemd.packages;
      has = any (p: p.name or "" == package.name);
      values = removeAttrs cfg [
        "address"
        "tunnels"
        "package"
      ]
      // cfg.address;
    in
    {
      services = mapAttrs (unitText "service") services;
      sockets = mapAttrs (unitText "socket") sockets;
      # What systemd gets besides
      files = listToAttrs (
        map (p: {
          name = replaceStrings [ "lib/systemd/system/" ] [ "" ] p.path;
          value = replaceStrings [ "${config.systemd.package}/lib" ] [ "/usr/lib" ] (plain p.text);
        }) packages
      );
      dropIns = attrNames (keep (name: services.${name}.overrideStrategy == "asDropin") services);
      # What a rebuild does to a running unit that has changed
      rebuild = mapAttrs (
        _: unit:
        if unit.reloadIfChanged then
          { reload = unit.restartTriggers; }
        else if unit.restartIfChanged then
          "restart"
        else
          "nothing"
      ) services;
      # What a rebuild starts, since this target has it
      started = filter (name: match "wgns-.*" name != null) config.systemd.targets.multi-user.wants;
      etc = mapAttrs (_: file: if file.text == null then { link = file.source; } else file.text) (
        keep (name: match "wireguard/.*" name != null) config.environment.etc
      );
      firewall = attrNames (groupBy toString config.networking.firewall.allowedTCPPorts);
      failed = map (a: a.message) (filter (a: !a.assertion) config.assertions);
      inherit (config) warnings;
      installed = has config.environment.systemPackages && has config.systemd.packages;
      # Sockets that a rebuild stops where they listen in the host
      moved = map head (filter isList (split "stop '([^']*)'" config.system.activationScripts.wgns));
      refused = filter (name: !(tryEval (deepSeq values.${name} true)).success) (attrNames values);
    };

  # ---- what is expected

  # What the module adds to the package's unit of a tunnel, and to the unit by which its services start
  wanting =
    names:
    plain ''
      [Unit]
      Wants=${names}
    '';
  tunnel = plain ''
    [Install]
    WantedBy=multi-user.target
  '';
  # A file of the project, for a tunnel
  made =
    unit: name: source:
    replaceStrings
      [ "wg@NAME" "NAME" "=wg-down" "=wg-up" " wgns " "/usr/bin/env" ]
      [
        unit
        name
        "=${package}/bin/wg-down"
        "=${package}/bin/wg-up"
        " /run/current-system/sw/bin/wgns "
        "/run/current-system/sw/bin/env"
      ]
      (plain (readFile source));
  ofDoor = made "wg@home" "home";
  confinedService = ../../wgns_helpers/confined-service.conf;
  confinedSocket = ../../wgns_helpers/confined-socket.conf;
  fine = {
    failed = [ ];
    warnings = [ ];
  };

  key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
  minimal = {
    address.IPv4 = "10.64.0.2/32";
    peer = key;
    endpoint = "192.0.2.1:51820";
    privateKey = "/root/wg.key";
    dns = [ "10.64.0.1" ];
  };
  minimalText = ''
    [Interface]
    PrivateKeyFile = /root/wg.key
    Address = 10.64.0.2/32
    DNS = 10.64.0.1

    [Peer]
    PublicKey = ${key}
    AllowedIPs = 0.0.0.0/0, ::/0
    Endpoint = 192.0.2.1:51820
  '';
  wg = {
    my.wireguard = minimal // {
      enable = true;
    };
  };

  cases = {
    # As in the article
    article = {
      module = {
        my.wireguard = {
          enable = true;
          address.IPv4 = "10.64.0.2/32";
          address.IPv6 = "fd00::2/128";
          peer = key;
          endpoint = "vpn.example.com:51820";
          privateKey = "/root/wg.key";
        };
        systemd.services.web = {
          bindsTo = [ "wg.service" ];
          after = [ "wg.service" ];
          unitConfig.JoinsNamespaceOf = "netns@wg.service";
          serviceConfig = {
            ExecStart = "/bin/web";
            PrivateNetwork = true;
          };
        };
      };
      expected = fine // rec {
        services = {
          "netns@" = "";
          wg = tunnel;
          "wg-confined@wg" = "";
          web = plain ''
            [Unit]
            After=wg.service
            BindsTo=wg.service
            JoinsNamespaceOf=netns@wg.service
            [Service]
            ExecStart=/bin/web
            PrivateNetwork=true
          '';
        };
        files = { };
        firewall = [ ];
        dropIns = [
          "netns@"
          "wg"
          "wg-confined@wg"
        ];
        rebuild = {
          "netns@" = "nothing";
          "wg-confined@wg" = "restart";
          wg.reload = [ etc."wireguard/wg.conf" ];
          web = "restart";
        };
        etc."wireguard/wg.conf" = ''
          [Interface]
          PrivateKeyFile = /root/wg.key
          Address = 10.64.0.2/32, fd00::2/128

          [Peer]
          PublicKey = ${key}
          AllowedIPs = 0.0.0.0/0, ::/0
          Endpoint = vpn.example.com:51820
        '';
        installed = true;
      };
    };

    every-setting = {
      module = {
        my.wireguard = {
          enable = true;
          address.IPv6 = "fd00::2";
          peer = key;
          endpoint = "[2001:db8::1]:51820";
          privateKey = ./cases.nix; # the literal is taken by its name
          presharedKeyFile = "/root/wg.psk";
          dns = [
            "10.64.0.1"
            "example.com"
          ];
          allowedIPs = [ "10.0.0.0/8" ];
          mtu = 1380;
          listenPort = 51820;
          persistentKeepalive = 25;
          openPorts = [
            "51413"
            "6881-6889/udp"
          ];
          waitHandshake = 30;
        };
      };
      expected = fine // {
        services = {
          "netns@" = "";
          wg = plain ''
            [Service]
            Environment="WG_UP_OPTIONS=--resolve-timeout=30 --wait-handshake=30"
            [Install]
            WantedBy=multi-user.target
          '';
          "wg-confined@wg" = "";
        };
        etc."wireguard/wg.conf" = ''
          [Interface]
          PrivateKeyFile = ${toString ./cases.nix}
          Address = fd00::2
          ListenPort = 51820
          MTU = 1380
          DNS = 10.64.0.1, example.com
          OpenPorts = 51413, 6881-6889/udp

          [Peer]
          PublicKey = ${key}
          PresharedKeyFile = /root/wg.psk
          AllowedIPs = 10.0.0.0/8
          Endpoint = [2001:db8::1]:51820
          PersistentKeepalive = 25
        '';
      };
    };

    providers-file = {
      module.my.wireguard = {
        enable = true;
        configFile = "/root/provider.conf";
        waitHandshake = null;
        publish = {
          "127.0.0.1:9091" = 9092;
          "[::1]:9091" = 9092;
        };
        openFirewall = true;
      };
      expected = fine // {
        services = {
          "netns@" = "";
          wg = tunnel;
          "wg-confined@wg" = wanting "wgns-publish-wg-9092-98dadfb3.socket";
        };
        files = {
          "wgns-publish-wg-9092-98dadfb3.service" =
            replaceStrings [ "HOST:PORT" "TARGET" ] [ "127.0.0.1:9092" "127.0.0.1:9092" ]
              (made "wg" "wg" ../../wgns_helpers/publish.service);
          "wgns-publish-wg-9092-98dadfb3.socket" = plain ''
            [Unit]
            Description=127.0.0.1:9092 in the network namespace wg
            Documentation=man:systemd-socket-proxyd(8) man:wgns-helpers(7)
            BindsTo=wg.service
            DefaultDependencies=false
            After=sysinit.target wg.service
            Before=shutdown.target
            Conflicts=shutdown.target
            [Socket]
            ListenStream=127.0.0.1:9091
            ListenStream=[::1]:9091
            BindIPv6Only=default
            FreeBind=true
            [Install]
            WantedBy=wg-confined@wg.service
          '';
        };
        rebuild = {
          "netns@" = "nothing";
          "wg-confined@wg" = "restart";
          wg.reload = [ "/root/provider.conf" ];
        };
        started = [ "wgns-publish-wg-9092-98dadfb3.socket" ];
        firewall = [ "9091" ];
        etc."wireguard/wg.conf".link = "/root/provider.conf";
      };
    };

    # Ports of the host for the tunnel, and one that the provider forwards
    doors = {
      module.my.wireguard.tunnels.home = {
        configFile = "/root/provider.conf";
        reach."8989" = "127.0.0.1:8989";
        reach."5432" = "db.lan:5432";
        forwardPort.enable = true;
        forwardPort.command = "/bin/program --port";
      };
      expected = fine // rec {
        services = {
          "netns@" = "";
          "wg@home" = tunnel;
          "wg-confined@home" = wanting (concatStringsSep " " started);
        };
        started = [
          "wgns-reach-home-5432-4a27beb3.socket"
          "wgns-reach-home-8989-fd22d472.socket"
          "wgns-forward@home.service"
        ];
        files = {
          "wgns-reach-home-8989-fd22d472.service" =
            replaceStrings [ "HOST:PORT" "HOST" "TARGET" ] [ "127.0.0.1:8989" "127.0.0.1" "127.0.0.1:8989" ]
              (ofDoor ../../wgns_helpers/reach.service);
          "wgns-reach-home-8989-fd22d472.socket" =
            replaceStrings [ "LISTEN" "TARGET" ] [ "127.0.0.1:8989" "127.0.0.1:8989" ]
              (ofDoor ../../wgns_helpers/reach.socket);
          "wgns-reach-home-5432-4a27beb3.service" =
            replaceStrings
              [ "HOST:PORT" "TARGET" "\nIPAddressAllow=HOST" "\nIPAddressDeny=any" ]
              [ "db.lan:5432" "db.lan:5432" "" "" ]
              (ofDoor ../../wgns_helpers/reach.service);
          "wgns-reach-home-5432-4a27beb3.socket" =
            replaceStrings [ "LISTEN" "TARGET" ] [ "127.0.0.1:5432" "db.lan:5432" ]
              (ofDoor ../../wgns_helpers/reach.socket);
          "wgns-forward@home.service" =
            replaceStrings
              [ "wg@%i" "=wgns forward" "Environment=WGNS_FORWARD_OPTIONS=" ]
              [
                "wg@home"
                "=${package}/bin/wgns forward"
                "Environment=\"WGNS_FORWARD_OPTIONS=--exec='/bin/program --port'\""
              ]
              (ofDoor (../../systemd + "/wgns-forward@.service"));
        };
      };
    };

    not-enabled = {
      module.my.wireguard = minimal;
      expected = {
        services = { };
        etc = { };
        installed = false;
        failed = [ ];
        warnings = [
          ''
            my.wireguard has settings (address.IPv4 dns endpoint peer privateKey), but there is no tunnel wg.
            Set my.wireguard.enable = true, or leave them out''
        ];
      };
    };

    # Names that systemd or switch-to-configuration could stumble over, and one that is not enabled
    further-tunnels = {
      module.my.wireguard.tunnels = {
        my-vpn = minimal;
        "a.b@c" = minimal;
        later = {
          enable = false;
        };
      };
      expected = fine // {
        services = {
          "netns@" = "";
          "wg@my-vpn" = tunnel;
          "wg@a.b@c" = tunnel;
          "wg-confined@my-vpn" = "";
          "wg-confined@a.b@c" = "";
        };
        files."wg@a.b@c.service" = made "wg@a.b@c" "a.b@c" (../../systemd + "/wg@.service");
        dropIns = [
          "netns@"
          "wg-confined@a.b@c"
          "wg-confined@my-vpn"
          "wg@a.b@c"
          "wg@my-vpn"
        ];
        rebuild = {
          "netns@" = "nothing";
          "wg-confined@a.b@c" = "restart";
          "wg-confined@my-vpn" = "restart";
          "wg@my-vpn".reload = [ minimalText ];
          "wg@a.b@c".reload = [ minimalText ];
        };
        etc = {
          "wireguard/my-vpn.conf" = minimalText;
          "wireguard/a.b@c.conf" = minimalText;
        };
        installed = true;
      };
    };

    # A service that another unit wants starts with the tunnel, too. The tunnel leaves a timer's service to the timer.
    confined-services = {
      module = {
        my.wireguard.tunnels = {
          my-vpn = minimal;
          part = minimal // {
            allowedIPs = [ "10.64.0.0/16" ];
          };
        };
        systemd.services = {
          web = {
            wireguardTunnel = "my-vpn";
            wantedBy = [ "multi-user.target" ];
            serviceConfig.ExecStart = "/bin/web";
            serviceConfig.TemporaryFileSystem = "/var";
            serviceConfig.BindReadOnlyPaths = [ "/run/secrets" ];
            serviceConfig.CapabilityBoundingSet = "CAP_NET_BIND_SERVICE";
            serviceConfig.SystemCallFilter = "@system-service";
            serviceConfig.RestrictAddressFamilies = "AF_INET";
          };
          backup = {
            wireguardTunnel = "part";
            serviceConfig.ExecStart = "/bin/backup";
          };
        };
      };
      expected = fine // {
        services = {
          "netns@" = "";
          "wg@my-vpn" = tunnel;
          "wg@part" = tunnel;
          "wg-confined@my-vpn" = wanting "web.service";
          "wg-confined@part" = "";
          web = plain ''
            [Service]
            BindReadOnlyPaths=/run/secrets
            CapabilityBoundingSet=CAP_NET_BIND_SERVICE
            ExecStart=/bin/web
            RestrictAddressFamilies=AF_INET
            SystemCallFilter=@system-service
            TemporaryFileSystem=/var
            [Install]
            WantedBy=multi-user.target
          '';
          backup = plain ''
            [Service]
            ExecStart=/bin/backup
          '';
        };
        # systemd reads wireguard.conf after NixOS's overrides.conf: what takes something away, with ~, comes last.
        files = {
          "web.service.d/wireguard.conf" = plain ''
            [Unit]
            BindsTo=wg@my-vpn.service
            After=wg@my-vpn.service
            [Service]
            ExecStartPre=/run/current-system/sw/bin/env -i JOURNAL_STREAM=''${JOURNAL_STREAM} PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONNOUSERSITE=1 /run/current-system/sw/bin/wgns check my-vpn
            ProtectProc=ptraceable
            BindReadOnlyPaths=/run/wgns/my-vpn/nsswitch.conf:/etc/nsswitch.conf
            BindReadOnlyPaths=/run/wgns/my-vpn/resolv.conf:/etc/resolv.conf
            BindReadOnlyPaths=/run/netns/my-vpn
            BindReadOnlyPaths=-/run/current-system
            BindReadOnlyPaths=-/run/systemd/journal
            BindReadOnlyPaths=-/run/systemd/notify
            BindReadOnlyPaths=-/run/systemd/userdb/io.systemd.DynamicUser
            CapabilityBoundingSet=~CAP_BPF CAP_DAC_READ_SEARCH CAP_MKNOD CAP_NET_ADMIN CAP_PERFMON CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_MODULE CAP_SYS_PTRACE CAP_SYS_RAWIO
            NoNewPrivileges=true
            InaccessiblePaths=-/etc/wireguard
            TemporaryFileSystem=/run
            NetworkNamespacePath=/run/netns/my-vpn
            ProtectKernelTunables=true
            ProtectControlGroups=true
            RestrictAddressFamilies=~AF_VSOCK AF_QIPCRTR
            SystemCallFilter=~@keyring
            SystemCallErrorNumber=EPERM
            DevicePolicy=closed
          '';
          "backup.service.d/wireguard.conf" = made "wg@part" "part" confinedService;
        };
      };
    };

    confined-sockets = {
      module = wg // {
        systemd.services = {
          web.wireguardTunnel = "wg";
          "each@".wireguardTunnel = "wg";
          kubo.wireguardTunnel = "wg";
          kubo.serviceConfig.Sockets = [ "kubo-api.socket" ];
          free = { };
        };
        systemd.sockets = {
          web = {
            wantedBy = [ "sockets.target" ];
            socketConfig.ListenStream = "80";
          };
          each.socketConfig.Accept = true;
          web-admin.socketConfig.Service = "web.service";
          kubo-api = { };
          "each@" = { };
          free = {
            description = "not confined";
            wantedBy = [ "sockets.target" ];
            socketConfig.ListenStream = "81";
          };
        };
      };
      expected = fine // {
        services = {
          "netns@" = "";
          wg = tunnel;
          "wg-confined@wg" = wanting "each.socket kubo-api.socket web.socket web-admin.socket";
          web = "";
          "each@" = "";
          kubo = plain ''
            [Service]
            Sockets=kubo-api.socket
          '';
          free = "";
        };
        moved = [
          "each.socket"
          "kubo-api.socket"
          "web.socket"
          "web-admin.socket"
        ];
        sockets = {
          web = plain ''
            [Socket]
            ListenStream=80
            [Install]
            WantedBy=sockets.target
          '';
          each = plain ''
            [Socket]
            Accept=true
          '';
          web-admin = plain ''
            [Socket]
            Service=web.service
          '';
          kubo-api = "";
          "each@" = "";
          free = plain ''
            [Unit]
            Description=not confined
            [Socket]
            ListenStream=81
            [Install]
            WantedBy=sockets.target
          '';
        };
        files = {
          "web.service.d/wireguard.conf" = made "wg" "wg" confinedService;
          "each@.service.d/wireguard.conf" = made "wg" "wg" confinedService;
          "kubo.service.d/wireguard.conf" = made "wg" "wg" confinedService;
          "each@.socket.d/wireguard.conf" = made "wg" "wg" confinedSocket;
          "kubo-api.socket.d/wireguard.conf" = made "wg" "wg" confinedSocket;
          "web.socket.d/wireguard.conf" = made "wg" "wg" confinedSocket;
          "each.socket.d/wireguard.conf" = made "wg" "wg" confinedSocket;
          "web-admin.socket.d/wireguard.conf" = plain ''
            [Unit]
            BindsTo=wg.service
            DefaultDependencies=false
            After=sysinit.target wg.service
            Before=shutdown.target
            Conflicts=shutdown.target
            [Socket]
            NetworkNamespacePath=/run/netns/wg
          '';
        };
      };
    };

    # As services.transmission has it: systemd would mount the host's /run in place of our empty one
    sockets-of-the-host = {
      module = wg // {
        systemd.services.transmission = {
          wireguardTunnel = "wg";
          serviceConfig = {
            BindPaths = [
              "/var/lib/transmission/Downloads"
              "/run"
              "-/var/run/nscd/:/x:rbind"
            ];
            BindReadOnlyPaths = "/nix/store /etc %t/dbus";
          };
        };
      };
      expected = fine // {
        services = {
          "netns@" = "";
          wg = tunnel;
          "wg-confined@wg" = "";
          transmission = plain ''
            [Service]
            BindPaths=/var/lib/transmission/Downloads
            BindPaths=/run
            BindPaths=-/var/run/nscd/:/x:rbind
            BindReadOnlyPaths=/nix/store /etc %t/dbus
          '';
        };
        files."transmission.service.d/wireguard.conf" = replaceStrings [ "[Service]\n" ] [
          (plain ''
            [Service]
            BindPaths=
            BindPaths=/var/lib/transmission/Downloads
            BindReadOnlyPaths=/nix/store
            BindReadOnlyPaths=/etc
            ''
            + "\n"
          )
        ] (made "wg" "wg" confinedService);
      };
    };

    impossible-tunnels = {
      module.my.wireguard = {
        enable = true;
        tunnels = {
          file = minimal // {
            configFile = "/root/file.conf";
            allowedIPs = [ "10.0.0.0/8" ];
            mtu = 1400;
          };
          wg = minimal;
          fifteen-is-fine = minimal;
          sixteen-is-a-lot = minimal;
          "a/b" = minimal;
          "-a" = minimal;
          ".." = minimal;
          lo = minimal;
        };
      };
      expected.failed = [
        (badName "-a")
        (badName "..")
        (badName "a/b")
        (badName "lo")
        (badName "sixteen-is-a-lot")
        "my.wireguard.tunnels.wg: the tunnel wg is my.wireguard itself; set it there"
        ''
          my.wireguard.tunnels."file": configFile is in place of all other settings, but set are: address.IPv4 allowedIPs dns endpoint mtu peer privateKey.
          Write them in /root/file.conf, or leave configFile out''
        "my.wireguard: privateKey is missing; set it, or configFile in place of all"
        "my.wireguard: peer is missing; set it, or configFile in place of all"
        "my.wireguard: endpoint is missing; set it, or configFile in place of all"
        "my.wireguard: there is no address; set address.IPv4, address.IPv6 or both"
      ];
    };

    # What only one of two tunnels can have, and services without a name server
    clashing-tunnels = {
      module = {
        my.wireguard.tunnels = {
          home = minimal // {
            dns = [ ];
            listenPort = 51820;
            publish."127.0.0.1:9091" = 9091;
            publish."0.0.0.0:80\nBindToDevice=lo" = 80;
          };
          work = minimal // {
            listenPort = 51820;
            publish."127.0.0.1:9091" = 9092;
            publish."[::1]:9091" = 9091;
            publish."9093" = 9093;
          };
        };
        systemd.services.web.wireguardTunnel = "home";
      };
      expected.failed = [
        ''
          my.wireguard: several tunnels have the listenPort 51820.
          Leave it out, or give each its own''
        ''
          my.wireguard: several tunnels publish 127.0.0.1:9091.
          Give each its own address or port''
        ''
          my.wireguard: publish has what is no address with a port: 0.0.0.0:80
          BindToDevice=lo.
          Legal: PORT, ADDRESS:PORT or [IPV6]:PORT''
      ];
      expected.warnings = [
        ''
          my.wireguard: the services of the tunnel home look up no names, since it has no dns.
          Set dns to the provider's name servers''
      ];
    };

    impossible-services = {
      module = {
        my.wireguard.tunnels.home = minimal;
        my.wireguard.tunnels.work = minimal;
        systemd.services = {
          bus = {
            wireguardTunnel = "home";
            before = [ "network-online.target" ];
            serviceConfig.BusName = "org.example.Bus";
            serviceConfig.PrivateNetwork = false;
          };
          elsewhere = {
            wireguardTunnel = "home";
            serviceConfig.NetworkNamespacePath = "/run/netns/work";
            serviceConfig.PrivateNetwork = true;
          };
          joining = {
            wireguardTunnel = "home";
            unitConfig.JoinsNamespaceOf = "netns@wg.service";
          };
          unknown.wireguardTunnel = "wg";
          web.wireguardTunnel = "home";
          stays = {
            wireguardTunnel = "home";
            restartIfChanged = false;
            reloadIfChanged = true;
          };
          podman-web.wireguardTunnel = "home";
          rooted.wireguardTunnel = "home";
          rooted.confinement.enable = true;
          # What another module has forced away clashes with nothing.
          freed = {
            wireguardTunnel = "home";
            unitConfig.JoinsNamespaceOf = [ ];
            serviceConfig.BusName = null;
            serviceConfig.RuntimeDirectory = "own";
            serviceConfig.BindPaths = [ "/run/shared" ];
            serviceConfig.ReadWritePaths = [
              "/run/own/x"
              "-/run/perhaps"
              "/run/shared"
              "/var/lib/freed"
            ];
          };
          needy.wireguardTunnel = "home";
          needy.serviceConfig.ReadWritePaths = "/run/postgresql /var/run/redis";
        };
        virtualisation.oci-containers.backend = "podman";
        virtualisation.oci-containers.containers.web = { image = "web"; };
        systemd.sockets = {
          admin.wireguardTunnel = null;
          admin.socketConfig.Service = "web.service";
          web.socketConfig.NetworkNamespacePath = "/run/netns/work";
        };
      };
      expected.failed = [
        ''
          systemd.services."bus": a service on the system bus answers the host, and has no bus when it is confined (it is in /run).
          Leave out wireguardTunnel, or Type = "dbus" and BusName''
        ''
          systemd.services."bus": it is ordered before network-online.target, which its tunnel waits for.
          Leave out wireguardTunnel, or set before = lib.mkForce [ ]''
        (ownNamespace "services.\"elsewhere\"" "NetworkNamespacePath PrivateNetwork")
        (ownNamespace "services.\"joining\"" "JoinsNamespaceOf")
        ''
          systemd.services."needy": the host's /run is hidden from it, and it needs /run/postgresql /var/run/redis there.
          Let it in: serviceConfig.BindPaths = [ "/run/postgresql" "/var/run/redis" ]''
        ''
          systemd.services."podman-web": its engine would put a bridge into the tunnel's namespace, past which no other service starts.
          Leave out wireguardTunnel; give the container --network=ns:/run/netns/home, and the service bindsTo and after = [ "wg@home.service" ]''
        ''
          systemd.services."rooted": confinement makes a root without the check, wgns.
          Leave out wireguardTunnel or confinement.enable''
        ''
          systemd.services."stays": a rebuild that confines it would leave it running in the host's network (restartIfChanged = false reloadIfChanged = true).
          Leave out wireguardTunnel, or use lib.mkForce''
        ''
          systemd.services."unknown": wireguardTunnel = "wg" is none of the tunnels that are enabled: "home", "work".
          my.wireguard.enable enables "wg", my.wireguard.tunnels has the others''
        ''
          systemd.sockets."admin": wireguardTunnel = null, but starts web.service, which has "home".
          Set both to the same''
        (ownNamespace "sockets.\"web\"" "NetworkNamespacePath")
      ];
    };

    # Values of another form, among them all that would end a line of the configuration
    refused = {
      module.my.wireguard = {
        enable = true;
        address.IPv4 = "10.64.0.2/32\nPostUp = reboot";
        address.IPv6 = "fd00::2 # mine";
        peer = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dh=";
        endpoint = "vpn.example.com";
        privateKey = "/nix/store/00000000000000000000000000000000-key";
        presharedKeyFile = "/root/a,b";
        configFile = "provider.conf";
        dns = [ "10.64.0.1\n" ];
        allowedIPs = [ "everything" ];
        mtu = 67;
        listenPort = 65536;
        persistentKeepalive = -1;
      };
      expected.refused = [
        "IPv4"
        "IPv6"
        "allowedIPs"
        "configFile"
        "dns"
        "endpoint"
        "listenPort"
        "mtu"
        "peer"
        "persistentKeepalive"
        "presharedKeyFile"
        "privateKey"
      ];
    };
  };
  badName = name: ''
    my.wireguard.tunnels."${name}": not a name for an interface and a unit.
    Legal: 1 to 15 letters, digits, _ . - @ with no leading dash, but not ".", "..", "all", "default" or "lo"'';
  ownNamespace = unit: clashing: ''
    systemd.${unit}: wireguardTunnel sets the network namespace, and so does: ${clashing}.
    Leave that out; where another module sets PrivateNetwork, use lib.mkForce false'';
in
mapAttrs (
  _: case:
  let
    got = look case.module;
  in
  {
    inherit (case) expected;
    got = mapAttrs (aspect: _: got.${aspect}) case.expected;
  }
) cases
